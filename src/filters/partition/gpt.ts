/**
 * GUID partition tables (UEFI specification 2.10, section 5.3): a header in the second sector and a copy of it in
 * the last one, each with checksums over itself and over its own array of entries. Which size a sector has is
 * written nowhere: it is the one for which a header stands where it should.
 */
import { crc32 } from 'node:zlib';
import { DamagedTableError, type Partition, type ReadRange } from './read-range.ts';

const SECTOR_SIZES = [512, 4096] as const;

const SIGNATURE = 'EFI PART';
const HEADER_BYTES_MIN = 92;
const ENTRY_BYTES_MIN = 128;

/** What is read for a claim on the disk: the usual array has 16 KiB. */
const ENTRIES_BYTES_MAX = 1024 * 1024;

/** Numbers above it are no offsets of ours anyway. */
const SECTOR_MAX = BigInt(Number.MAX_SAFE_INTEGER);

/** A header whose own checksum is right. Sectors are numbers of sectors. */
export interface GptHeader {
  readonly ownSector: number;
  readonly entriesSector: number;
  readonly entryCount: number;
  readonly entryBytes: number;
  readonly entriesCrc: number;
}

/** The header in the first bytes of a sector, or undefined when there is none that can be believed. */
export function decodeGptHeader(sector: Uint8Array): GptHeader | undefined {
  const bytes = Buffer.from(sector);
  if (bytes.length < HEADER_BYTES_MIN || bytes.toString('latin1', 0, 8) !== SIGNATURE) {
    return undefined;
  }
  const headerBytes = bytes.readUInt32LE(12);
  if (headerBytes < HEADER_BYTES_MIN || headerBytes > bytes.length) {
    return undefined;
  }
  const checksum = bytes.readUInt32LE(16);
  // The checksum was made with itself as zero.
  bytes.writeUInt32LE(0, 16);
  const ownSector = bytes.readBigUInt64LE(24);
  const entriesSector = bytes.readBigUInt64LE(72);
  if (
    crc32(bytes.subarray(0, headerBytes)) !== checksum ||
    ownSector > SECTOR_MAX ||
    entriesSector > SECTOR_MAX
  ) {
    return undefined;
  }
  return {
    ownSector: Number(ownSector),
    entriesSector: Number(entriesSector),
    entryCount: bytes.readUInt32LE(80),
    entryBytes: bytes.readUInt32LE(84),
    entriesCrc: bytes.readUInt32LE(88),
  };
}

/** The used entries of an array as partitions. */
export function decodeGptEntries(
  entries: Uint8Array,
  { entryCount, entryBytes }: Pick<GptHeader, 'entryCount' | 'entryBytes'>,
  sectorBytes: number,
): Partition[] {
  const bytes = Buffer.from(entries.buffer, entries.byteOffset, entries.byteLength);
  const partitions: Partition[] = [];
  for (let index = 0; index < entryCount; index += 1) {
    const entry = bytes.subarray(index * entryBytes, (index + 1) * entryBytes);
    const isUsed = entry.subarray(0, 16).some((byte) => byte !== 0);
    const first = entry.readBigUInt64LE(32);
    const last = entry.readBigUInt64LE(40);
    if (isUsed && first <= last && last < SECTOR_MAX / BigInt(sectorBytes)) {
      partitions.push({
        number: index + 1,
        offset: Number(first) * sectorBytes,
        length: (Number(last - first) + 1) * sectorBytes,
      });
    }
  }
  return partitions;
}

/** Throws a DamagedTableError when neither the table nor its copy can be believed. */
export async function readGpt(
  size: number,
  read: ReadRange,
): Promise<{ readonly partitions: Partition[]; readonly isCopy: boolean }> {
  for (const isCopy of [false, true]) {
    for (const sectorBytes of SECTOR_SIZES) {
      const sectorCount = Math.floor(size / sectorBytes);
      const sector = isCopy ? sectorCount - 1 : 1;
      const partitions = sectorCount > 2 ? await readTable(sector, sectorBytes, size, read) : undefined;
      if (partitions !== undefined) {
        return { partitions, isCopy };
      }
    }
  }
  throw new DamagedTableError('neither its GPT nor the copy at the end is intact');
}

async function readTable(
  sector: number,
  sectorBytes: number,
  size: number,
  read: ReadRange,
): Promise<Partition[] | undefined> {
  const header = decodeGptHeader(await read(sector * sectorBytes, sectorBytes));
  if (header === undefined || header.ownSector !== sector) {
    return undefined;
  }
  const { entriesSector, entryCount, entryBytes } = header;
  const offset = entriesSector * sectorBytes;
  const length = entryCount * entryBytes;
  if (entryBytes < ENTRY_BYTES_MIN || length > ENTRIES_BYTES_MAX || offset + length > size) {
    return undefined;
  }
  const entries = await read(offset, length);
  return crc32(entries) === header.entriesCrc ? decodeGptEntries(entries, header, sectorBytes) : undefined;
}
