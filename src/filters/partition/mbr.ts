/**
 * The partition table of the master boot record, in sectors of 512 bytes (UEFI specification 2.10, section 5.2;
 * Linux, block/partitions/msdos.c): four entries, of which one may be an extended partition. That holds a chain
 * of boot records, each with one logical partition and a link to the next.
 */
import { DamagedTableError, type Partition, type ReadRange } from './read-range.ts';

export const SECTOR_BYTES = 512;

const ENTRIES_POSITION = 446;
const ENTRY_BYTES = 16;
const SIGNATURE_POSITION = 510;
const SIGNATURE = 0xaa55;

const EMPTY = 0x00;
const EXTENDED_TYPES: readonly number[] = [0x05, 0x0f, 0x85];
const GPT_PROTECTIVE = 0xee;

/** The kernel gives up after a hundred links, too. */
const LOGICAL_COUNT_MAX = 100;

/** One entry; `start` and `count` in sectors. */
export interface MbrEntry {
  readonly type: number;
  readonly start: number;
  readonly count: number;
}

/** The four entries of a boot record of 512 bytes or more, or undefined when it is none. */
export function decodeBootRecord(bytes: Uint8Array): readonly MbrEntry[] | undefined {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < SECTOR_BYTES || view.getUint16(SIGNATURE_POSITION, true) !== SIGNATURE) {
    return undefined;
  }
  return [0, 1, 2, 3].map((index) => {
    const position = ENTRIES_POSITION + index * ENTRY_BYTES;
    return {
      type: view.getUint8(position + 4),
      start: view.getUint32(position + 8, true),
      count: view.getUint32(position + 12, true),
    };
  });
}

export function isProtective(entries: readonly MbrEntry[]): boolean {
  return entries.some(({ type }) => type === GPT_PROTECTIVE);
}

/** Every partition that can be served: primary ones first, then logical ones in the order of their chain. */
export async function readMbr(
  entries: readonly MbrEntry[],
  size: number,
  read: ReadRange,
): Promise<Partition[]> {
  const partitions: Partition[] = [];
  for (const [index, entry] of entries.entries()) {
    if (isUsed(entry) && !EXTENDED_TYPES.includes(entry.type)) {
      partitions.push(partitionOf(index + 1, 0, entry));
    }
  }
  // The kernel numbers the logical partitions of the first extended one only, if there are more.
  const extended = entries.find((entry) => isUsed(entry) && EXTENDED_TYPES.includes(entry.type));
  return extended === undefined ? partitions : [...partitions, ...(await readLogical(extended, size, read))];
}

async function readLogical(extended: MbrEntry, size: number, read: ReadRange): Promise<Partition[]> {
  const partitions: Partition[] = [];
  let recordSector = extended.start;
  for (let links = 0; ; links += 1) {
    const offset = recordSector * SECTOR_BYTES;
    if (links === LOGICAL_COUNT_MAX) {
      throw new DamagedTableError(`its chain of logical partitions has more than ${LOGICAL_COUNT_MAX} links`);
    }
    if (offset + SECTOR_BYTES > size) {
      throw new DamagedTableError('its chain of logical partitions leads past the end of the export');
    }
    const entries = decodeBootRecord(await read(offset, SECTOR_BYTES));
    if (entries === undefined) {
      throw new DamagedTableError('its chain of logical partitions leads to something else');
    }
    const logical = entries.find((entry) => isUsed(entry) && !EXTENDED_TYPES.includes(entry.type));
    if (logical !== undefined) {
      // Relative to the boot record that names it.
      partitions.push(partitionOf(5 + partitions.length, recordSector, logical));
    }
    const link = entries.find((entry) => isUsed(entry) && EXTENDED_TYPES.includes(entry.type));
    if (link === undefined) {
      return partitions;
    }
    // Relative to the extended partition.
    recordSector = extended.start + link.start;
  }
}

function isUsed({ type, count }: MbrEntry): boolean {
  return type !== EMPTY && count > 0;
}

function partitionOf(number: number, base: number, { start, count }: MbrEntry): Partition {
  return { number, offset: (base + start) * SECTOR_BYTES, length: count * SECTOR_BYTES };
}
