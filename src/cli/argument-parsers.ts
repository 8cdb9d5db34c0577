/** Values of options: each parser returns the value or throws what commander turns into one clear line. */
import { InvalidArgumentError } from '@commander-js/extra-typings';
import { EXPORT_BYTES_MAX } from '../limits.ts';
import { NBD_STRING_BYTES_MAX } from '../protocol/constants.ts';
import { parseSize } from '../units/size.ts';

/** A size in bytes from `min` to `max`. */
export function sizeBetween(min: number, max: number = EXPORT_BYTES_MAX): (text: string) => number {
  return (text) => {
    const size = parseSize(text);
    if (size === undefined) {
      throw new InvalidArgumentError('Give bytes or a number with K, M, G, T, P or E, such as 512M.');
    }
    if (size < min || size > max) {
      throw new InvalidArgumentError(`Give a size from ${min} to ${max} bytes.`);
    }
    return size;
  };
}

/** A whole number from `min` to `max`. */
export function integerBetween(min: number, max: number): (text: string) => number {
  return (text) => {
    const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
    if (!(value >= min && value <= max)) {
      throw new InvalidArgumentError(`Give a whole number from ${min} to ${max}.`);
    }
    return value;
  };
}

/** Numbers between commas, each once, in ascending order. */
export function listOf(parse: (text: string) => number): (text: string) => readonly number[] {
  return (text) => [...new Set(text.split(',').map(parse))].sort((one, other) => one - other);
}

/** A string that fits the wire (proto.md: 4096 bytes of UTF-8 without NUL). */
export function wireString(text: string): string {
  if (Buffer.byteLength(text) > NBD_STRING_BYTES_MAX || text.includes('\0')) {
    throw new InvalidArgumentError(`Give at most ${NBD_STRING_BYTES_MAX} bytes.`);
  }
  return text;
}
