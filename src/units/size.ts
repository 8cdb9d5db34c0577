/** Sizes on the command line: bytes, or binary suffixes K M G T P E, exact up to 2^53-1. */
import { EXPORT_BYTES_MAX } from '../limits.ts';

const SUFFIXES = 'KMGTPE';

/** Bytes, or undefined when the text is no size. Larger sizes than 2^53-1 come back as Infinity. */
export function parseSize(text: string): number | undefined {
  const match = /^(\d+)([KMGTPE]?)$/i.exec(text);
  if (match === null) {
    return undefined;
  }
  const [, digits = '', suffix = ''] = match;
  const exponent = suffix === '' ? 0 : SUFFIXES.indexOf(suffix.toUpperCase()) + 1;
  // BigInt: 9007199254740993 must not become its even neighbour.
  const bytes = BigInt(digits) * 1024n ** BigInt(exponent);
  return bytes > BigInt(EXPORT_BYTES_MAX) ? Number.POSITIVE_INFINITY : Number(bytes);
}

/** What `parseSize` reads back as the same bytes: with the largest suffix that is exact. */
export function formatSize(bytes: number): string {
  let value = bytes;
  let suffix = '';
  for (let index = 0; index < SUFFIXES.length && value > 0 && value % 1024 === 0; index += 1) {
    value /= 1024;
    suffix = SUFFIXES.charAt(index);
  }
  return `${value}${suffix}`;
}
