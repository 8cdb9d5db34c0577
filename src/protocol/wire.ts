/**
 * Big-endian integers and UTF-8 strings in a byte array: the alphabet of the protocol. Positions are the
 * caller's duty: reading past the end of the array is a bug, not a way to ask for more bytes.
 */

/** What a 64-bit value that is no safe integer decodes to; larger than any export, so every bound refuses it. */
export const UNREPRESENTABLE = Number.POSITIVE_INFINITY;

const TWO_TO_32 = 0x1_0000_0000;
/** Upper words from here on do not fit a safe integer: 2^21 * 2^32 = 2^53. */
const HIGH_WORD_LIMIT = 0x20_0000;

export function getU16(bytes: Uint8Array, position: number): number {
  return ((bytes[position] as number) << 8) | (bytes[position + 1] as number);
}

export function getU32(bytes: Uint8Array, position: number): number {
  return (
    (((bytes[position] as number) << 24) |
      ((bytes[position + 1] as number) << 16) |
      ((bytes[position + 2] as number) << 8) |
      (bytes[position + 3] as number)) >>>
    0
  );
}

/** A 64-bit unsigned value, or UNREPRESENTABLE from 2^53 on. */
export function getU64(bytes: Uint8Array, position: number): number {
  const high = getU32(bytes, position);
  return high < HIGH_WORD_LIMIT ? high * TWO_TO_32 + getU32(bytes, position + 4) : UNREPRESENTABLE;
}

export function putU16(bytes: Uint8Array, position: number, value: number): void {
  bytes[position] = value >>> 8;
  bytes[position + 1] = value;
}

export function putU32(bytes: Uint8Array, position: number, value: number): void {
  bytes[position] = value >>> 24;
  bytes[position + 1] = value >>> 16;
  bytes[position + 2] = value >>> 8;
  bytes[position + 3] = value;
}

/** `value`: 0 to 2^53-1. */
export function putU64(bytes: Uint8Array, position: number, value: number): void {
  putU32(bytes, position, Math.floor(value / TWO_TO_32));
  putU32(bytes, position + 4, value >>> 0);
}

export function encodeUtf8(text: string): Uint8Array {
  return new TextEncoder().encode(text);
}

/** As encodeUtf8, cut to at most `bytesMax` bytes between two characters, so that it stays UTF-8. */
export function encodeUtf8Cut(text: string, bytesMax: number): Uint8Array {
  const bytes = encodeUtf8(text);
  let end = Math.min(bytes.length, bytesMax);
  // Bytes 10xxxxxx continue a character.
  while (end < bytes.length && ((bytes[end] as number) & 0xc0) === 0x80) {
    end -= 1;
  }
  return bytes.subarray(0, end);
}

/** The text, or undefined when the bytes are no UTF-8 or contain a NUL ("strings": both are forbidden). */
export function decodeUtf8(bytes: Uint8Array): string | undefined {
  if (bytes.includes(0)) {
    return undefined;
  }
  try {
    // ignoreBOM keeps a leading U+FEFF: a name is compared byte for byte, not cleaned up.
    return new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(bytes);
  } catch {
    return undefined;
  }
}
