/** The filters that exist, and `name[:options]` on the command line. */
import { cowFilter } from './cow/cow.ts';
import { delayFilter } from './delay/delay.ts';
import { errorFilter } from './error/error.ts';
import type { Filter, FilterSpec } from './filter.ts';
import { FilterError } from './filter-error.ts';
import { logFilter } from './log/log.ts';
import { offsetFilter } from './offset/offset.ts';
import { partitionFilter } from './partition/partition.ts';
import { rateFilter } from './rate/rate.ts';
import { readaheadFilter } from './readahead/readahead.ts';

export const FILTERS: readonly Filter[] = [
  cowFilter,
  delayFilter,
  errorFilter,
  logFilter,
  offsetFilter,
  partitionFilter,
  rateFilter,
  readaheadFilter,
];

/** Throws a FilterError. */
export function parseFilter(text: string): FilterSpec {
  const colon = text.indexOf(':');
  const name = colon < 0 ? text : text.slice(0, colon);
  const filter = FILTERS.find((each) => each.name === name);
  if (filter === undefined) {
    throw new FilterError(
      `There is no filter "${name}"; there are ${FILTERS.map((each) => each.name).join(', ')}`,
    );
  }
  return filter.parse(colon < 0 ? undefined : text.slice(colon + 1));
}
