/**
 * Where in a file the resident pages are: cells of equal size for a drawing, and the ranges of pages.
 *
 * Asking page by page would take 268 million calls for a file of 1 TiB. One call counts the pages of a range of
 * any size, at a cost that grows with what is resident and not with the range: so each cell is one call, and
 * only ranges that are neither empty nor full are halved further, level by level. The calls are bounded; what
 * they do not reach stays one range with fewer resident pages than it has pages.
 */
import { PAGE_BYTES } from '../page-cache.ts';

/** Halvings of one file: some 0.1 s. Above it a file with every second page resident would take for ever. */
const HALVING_COUNT_MAX = 4096;

/** Bytes, and how many of the pages in them are resident. */
export interface CountedRange {
  readonly offset: number;
  readonly length: number;
  readonly residentPages: number;
}

export interface ResidencyMap {
  /** Bytes of each cell but the last one. */
  readonly cellBytes: number;
  readonly cells: readonly CountedRange[];
  /** Those with resident pages, in order; all pages of a range are, unless there were too many to look at. */
  readonly ranges: readonly CountedRange[];
}

/** Counts the resident pages of a range. */
export type CountResident = (offset: number, length: number) => Promise<number>;

/** Pages instead of bytes. */
interface Run {
  readonly first: number;
  readonly count: number;
  readonly resident: number;
}

export async function mapResidency(
  size: number,
  cellCountMax: number,
  countResident: CountResident,
): Promise<ResidencyMap> {
  const pages = Math.ceil(size / PAGE_BYTES);
  const cellPages = Math.max(1, Math.ceil(pages / cellCountMax));
  const count = async (first: number, length: number): Promise<Run> => {
    const resident = await countResident(first * PAGE_BYTES, length * PAGE_BYTES);
    return { first, count: length, resident: Math.min(resident, length) };
  };
  const cells = await Promise.all(
    Array.from({ length: Math.ceil(pages / cellPages) }, (_, index) =>
      count(index * cellPages, Math.min(cellPages, pages - index * cellPages)),
    ),
  );
  const toRange = ({ first, count: length, resident }: Run): CountedRange => ({
    offset: first * PAGE_BYTES,
    length: Math.min(length * PAGE_BYTES, size - first * PAGE_BYTES),
    residentPages: resident,
  });
  return {
    cellBytes: cellPages * PAGE_BYTES,
    cells: cells.map(toRange),
    ranges: merge(await refine(cells, count)).map(toRange),
  };
}

/** Halves what is neither empty nor full, the coarse before the fine. */
async function refine(
  cells: readonly Run[],
  count: (first: number, length: number) => Promise<Run>,
): Promise<readonly Run[]> {
  let runs = cells.filter(({ resident }) => resident > 0);
  let halvings = HALVING_COUNT_MAX;
  while (halvings > 0 && runs.some(isMixed)) {
    const halved = await Promise.all(
      runs.map(async (run) => {
        if (!isMixed(run) || halvings === 0) {
          return [run];
        }
        halvings -= 1;
        const left = await count(run.first, Math.floor(run.count / 2));
        const length = run.count - left.count;
        // No second call; when pages came or went since the first one, a page more or less is told.
        const resident = Math.min(Math.max(run.resident - left.resident, 0), length);
        return [left, { first: run.first + left.count, count: length, resident }];
      }),
    );
    runs = halved.flat().filter(({ resident }) => resident > 0);
  }
  return runs;
}

function isMixed({ count, resident }: Run): boolean {
  return resident > 0 && resident < count;
}

/** Joins neighbours of the same kind. */
function merge(runs: readonly Run[]): readonly Run[] {
  const merged: Run[] = [];
  for (const run of runs) {
    const last = merged.at(-1);
    if (last !== undefined && last.first + last.count === run.first && isMixed(last) === isMixed(run)) {
      merged[merged.length - 1] = {
        first: last.first,
        count: last.count + run.count,
        resident: last.resident + run.resident,
      };
    } else {
      merged.push(run);
    }
  }
  return merged;
}
