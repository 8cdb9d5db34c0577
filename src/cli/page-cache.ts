/** What cachestat(2) says of a range of an open file, for the commands that report it. */
import { native } from '../native/binding.ts';
import { call } from '../native/call.ts';
import { EACCES, EPERM, errnoName, errnoOf } from '../native/errno.ts';
import { CommandError } from './command-error.ts';

export const PAGE_BYTES = native.page_size;

/** Pages; undefined is what mincore(2) cannot tell, which stands in before Linux 6.5. */
export interface CachedPages {
  readonly resident: number;
  readonly dirty: number | undefined;
  readonly writeback: number | undefined;
  /** Pages that were here and left, as far as the kernel remembers them. */
  readonly evicted: number | undefined;
  /** Those of them whose return would mean that memory is short (mm/workingset.c). */
  readonly recentlyEvicted: number | undefined;
}

/** Counts the pages of a range; `length` 0: to the end of the file. `path` is for the error. */
export async function cachedPages(
  fd: number,
  offset: number,
  length: number,
  path: string,
): Promise<CachedPages> {
  const counts = new Float64Array(5);
  const result = await call((done) => {
    native.cachestat(fd, offset, length, counts, done);
  });
  if (result < 0) {
    const errno = errnoOf(result);
    const reason =
      errno === EPERM || errno === EACCES
        ? 'only its owner, or who may write to it, is told'
        : errnoName(errno);
    throw new CommandError(`Cannot tell what of "${path}" is cached: ${reason}`);
  }
  const [resident = 0, dirty = -1, writeback = -1, evicted = -1, recentlyEvicted = -1] = counts;
  return {
    resident,
    dirty: known(dirty),
    writeback: known(writeback),
    evicted: known(evicted),
    recentlyEvicted: known(recentlyEvicted),
  };
}

function known(pages: number): number | undefined {
  return pages < 0 ? undefined : pages;
}
