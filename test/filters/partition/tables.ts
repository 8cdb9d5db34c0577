/** Disks with partition tables, byte by byte, by somebody who has not read the decoders. */
import { crc32 } from 'node:zlib';

export interface MbrPart {
  readonly slot: number;
  readonly type: number;
  readonly start: number;
  readonly count: number;
}

/** Writes a boot record at a sector of 512 bytes. */
export function putBootRecord(disk: Buffer, sector: number, parts: readonly MbrPart[]): void {
  const at = sector * 512;
  disk.writeUInt16LE(0xaa55, at + 510);
  for (const { slot, type, start, count } of parts) {
    const entry = at + 446 + 16 * slot;
    disk[entry + 4] = type;
    disk.writeUInt32LE(start, entry + 8);
    disk.writeUInt32LE(count, entry + 12);
  }
}

/** Primary 1, 2 and 4, the third an extended one with logical 5, 6 and 7. In sectors. */
export function mbrDisk(): Buffer {
  const disk = Buffer.alloc(512 * 2000);
  putBootRecord(disk, 0, [
    { slot: 0, type: 0x83, start: 100, count: 50 },
    { slot: 1, type: 0x82, start: 150, count: 1 },
    { slot: 2, type: 0x0f, start: 1000, count: 1000 },
    { slot: 3, type: 0x07, start: 200, count: 300 },
  ]);
  putBootRecord(disk, 1000, [
    { slot: 0, type: 0x83, start: 10, count: 90 },
    { slot: 1, type: 0x05, start: 200, count: 200 },
  ]);
  putBootRecord(disk, 1200, [
    { slot: 0, type: 0x83, start: 1, count: 2 },
    { slot: 1, type: 0x05, start: 500, count: 200 },
  ]);
  putBootRecord(disk, 1500, [{ slot: 0, type: 0x83, start: 100, count: 400 }]);
  return disk;
}

export interface GptPart {
  readonly number: number;
  readonly first: number;
  readonly last: number;
}

const ENTRY_COUNT = 128;
const ENTRY_BYTES = 128;

/** A disk of `sectorCount` sectors with a protective boot record, a table and its copy. */
export function gptDisk(sectorBytes: number, sectorCount: number, parts: readonly GptPart[]): Buffer {
  const disk = Buffer.alloc(sectorBytes * sectorCount);
  putBootRecord(disk, 0, [{ slot: 0, type: 0xee, start: 1, count: sectorCount - 1 }]);
  const entries = Buffer.alloc(ENTRY_COUNT * ENTRY_BYTES);
  for (const { number, first, last } of parts) {
    const at = (number - 1) * ENTRY_BYTES;
    entries.fill(number, at, at + 32);
    entries.writeBigUInt64LE(BigInt(first), at + 32);
    entries.writeBigUInt64LE(BigInt(last), at + 40);
  }
  const entrySectors = entries.length / sectorBytes;
  const last = sectorCount - 1;
  for (const [own, other, array] of [
    [1, last, 2],
    [last, 1, last - entrySectors],
  ] as const) {
    entries.copy(disk, array * sectorBytes);
    const header = Buffer.alloc(92);
    header.write('EFI PART');
    header.writeUInt32LE(0x10000, 8);
    header.writeUInt32LE(92, 12);
    header.writeBigUInt64LE(BigInt(own), 24);
    header.writeBigUInt64LE(BigInt(other), 32);
    header.writeBigUInt64LE(BigInt(2 + entrySectors), 40);
    header.writeBigUInt64LE(BigInt(last - entrySectors - 1), 48);
    header.writeBigUInt64LE(BigInt(array), 72);
    header.writeUInt32LE(ENTRY_COUNT, 80);
    header.writeUInt32LE(ENTRY_BYTES, 84);
    header.writeUInt32LE(crc32(entries), 88);
    header.writeUInt32LE(crc32(header), 16);
    header.copy(disk, own * sectorBytes);
  }
  return disk;
}
