/** `partition`: one partition of a disk. */
import type { Plugin } from '../../plugins/plugin.ts';
import { formatSize } from '../../units/size.ts';
import { defineFilter } from '../filter.ts';
import { FilterError } from '../filter-error.ts';
import { assertRange, RangePlugin } from '../offset/range-plugin.ts';
import { integer } from '../options.ts';
import { readAligned } from '../read-aligned.ts';
import { readGpt } from './gpt.ts';
import { decodeBootRecord, isProtective, readMbr, SECTOR_BYTES } from './mbr.ts';
import { DamagedTableError, type Partition, type ReadRange } from './read-range.ts';

/** Far above what any table holds. */
const NUMBER_MAX = 65_535;

export const partitionFilter = defineFilter({
  name: 'partition',
  usage: 'NUMBER',
  summary: 'serve one partition (MBR with logical ones from 5 on, or GPT)',
  options: { partition: integer(1, NUMBER_MAX) },
  firstOption: 'partition',
  prepare({ partition: number }) {
    if (number === undefined) {
      throw new FilterError('Filter "partition" needs the number of one, such as partition:1');
    }
    return {
      open: async (inner, { log }) => {
        const { partitions, isCopy } = await readTable(inner);
        const partition = partitions.find((each) => each.number === number);
        if (partition === undefined) {
          throw new FilterError(`Filter "partition": there is no partition ${number}; ${list(partitions)}`);
        }
        assertRange(inner, partition, `Filter "partition": partition ${number}`);
        if (isCopy) {
          log.warn({}, 'The GPT is damaged; its copy at the end of the disk is used');
        }
        return new RangePlugin(inner, partition);
      },
    };
  },
});

interface Table {
  readonly partitions: readonly Partition[];
  /** It was read from the copy at the end of the disk. */
  readonly isCopy: boolean;
}

async function readTable(inner: Plugin): Promise<Table> {
  const { size } = inner.info;
  const handle = await inner.open();
  const read: ReadRange = (offset, length) => readAligned(handle, inner.info, offset, length);
  try {
    const entries = size < SECTOR_BYTES ? undefined : decodeBootRecord(await read(0, SECTOR_BYTES));
    if (entries === undefined) {
      throw new FilterError('Filter "partition": the export has no partition table (MBR or GPT)');
    }
    // As Linux and UEFI do: a GPT counts only where the boot record says that there is one.
    return isProtective(entries)
      ? await readGpt(size, read)
      : { partitions: await readMbr(entries, size, read), isCopy: false };
  } catch (error) {
    throw error instanceof DamagedTableError
      ? new FilterError(`Filter "partition": the partition table is damaged: ${error.message}`)
      : error;
  } finally {
    await handle.close();
  }
}

function list(partitions: readonly Partition[]): string {
  return partitions.length === 0
    ? 'there are none'
    : `there are ${partitions.map(({ number, length }) => `${number} (${formatSize(length)})`).join(', ')}`;
}
