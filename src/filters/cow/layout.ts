/**
 * The overlay file, version 1. All numbers are little-endian; everything else in the first 4096 bytes is zero.
 *
 *   0            16   "nbd-serve cow", a newline, two zero bytes
 *   16            4   version: 1
 *   20            4   bytes of a block: 65536
 *   24            8   bytes of the base
 *   32            8   where the bitmap begins: 4096
 *   40            8   where the data begins: behind the bitmap, at a multiple of 65536
 *   48           32   fingerprint of the base (fingerprint.ts)
 *   80            4   CRC-32 of the 80 bytes before
 *
 *   4096              bitmap: bit n % 8 of byte n / 8 is set when block n of the export is in this file; the rest of
 *                     the last page is zero
 *   data              block n at n * 65536; holes read as zeros, or belong to blocks that are not here
 *
 * The header is written once, before the file has its name. A bit goes from 0 to 1 and never back, and is written
 * only after the block that it speaks of is on stable storage (overlay.ts): at any moment, whatever a crash leaves
 * of a page of the bitmap speaks of blocks that are there, and those that it has lost were not promised yet.
 */
import { crc32 } from 'node:zlib';
import { formatSize } from '../../units/size.ts';
import { FilterError } from '../filter-error.ts';

export const BLOCK_BYTES = 64 * 1024;
export const PAGE_BYTES = 4096;
export const HEADER_BYTES = 84;
export const FINGERPRINT_BYTES = 32;
export const BITMAP_OFFSET = PAGE_BYTES;

const MAGIC = Buffer.from('nbd-serve cow\n\0\0', 'latin1');
const VERSION = 1;

export interface Geometry {
  /** Bytes of the base, and of the export. */
  readonly size: number;
  readonly blockCount: number;
  /** Whole pages. */
  readonly bitmapBytes: number;
  readonly dataOffset: number;
  readonly fileBytes: number;
}

export function geometryOf(size: number): Geometry {
  const blockCount = Math.ceil(size / BLOCK_BYTES);
  const bitmapBytes = Math.ceil(blockCount / 8 / PAGE_BYTES) * PAGE_BYTES;
  const dataOffset = Math.ceil((BITMAP_OFFSET + bitmapBytes) / BLOCK_BYTES) * BLOCK_BYTES;
  return { size, blockCount, bitmapBytes, dataOffset, fileBytes: dataOffset + size };
}

export function encodeHeader({ size, dataOffset }: Geometry, fingerprint: Uint8Array): Buffer {
  const bytes = Buffer.alloc(HEADER_BYTES);
  MAGIC.copy(bytes);
  bytes.writeUInt32LE(VERSION, 16);
  bytes.writeUInt32LE(BLOCK_BYTES, 20);
  bytes.writeBigUInt64LE(BigInt(size), 24);
  bytes.writeBigUInt64LE(BigInt(BITMAP_OFFSET), 32);
  bytes.writeBigUInt64LE(BigInt(dataOffset), 40);
  bytes.set(fingerprint, 48);
  bytes.writeUInt32LE(crc32(bytes.subarray(0, 80)), 80);
  return bytes;
}

/**
 * Throws a FilterError unless `bytes`, the first of a file of `fileBytes`, are the header of an overlay of this
 * very base. `path` is for the error.
 */
export function assertHeader(
  bytes: Uint8Array,
  fileBytes: number,
  geometry: Geometry,
  fingerprint: Uint8Array,
  path: string,
): void {
  const found = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const refuse = (reason: string): never => {
    throw new FilterError(`Filter "cow": "${path}" ${reason}`);
  };
  if (found.length < HEADER_BYTES || !found.subarray(0, MAGIC.length).equals(MAGIC)) {
    refuse('is no overlay of nbd-serve; give another path, or one where nothing is');
  }
  if (found.readUInt32LE(80) !== crc32(found.subarray(0, 80))) {
    refuse('has a damaged header');
  }
  const version = found.readUInt32LE(16);
  if (version !== VERSION) {
    refuse(`is an overlay of version ${version}; this program knows version ${VERSION}`);
  }
  const size = found.readBigUInt64LE(24);
  if (size !== BigInt(geometry.size)) {
    refuse(`belongs to a base of ${size} bytes, not to this one of ${formatSize(geometry.size)}`);
  }
  const expected = encodeHeader(geometry, fingerprint);
  if (!found.subarray(48, 80).equals(expected.subarray(48, 80))) {
    refuse('belongs to another base, or this one has changed since');
  }
  if (!found.subarray(0, HEADER_BYTES).equals(expected)) {
    refuse('has a header that this program does not understand');
  }
  if (fileBytes !== geometry.fileBytes) {
    refuse(`is damaged: it has ${fileBytes} bytes in place of ${geometry.fileBytes}`);
  }
}
