/**
 * What of a file is in the page cache, extent by extent: the meta context `x-nbd-serve:resident`. cachestat(2)
 * counts the pages of a range, so that a range is halved until it is all of one kind; a run of 1 GiB costs one
 * call, a lone page in 4 GiB some twenty.
 */
import { EXTENT_COUNT_MAX, EXTENT_SEARCH_MS_MAX } from '../../limits.ts';
import { native } from '../../native/binding.ts';
import { call } from '../../native/call.ts';
import { errnoOf } from '../../native/errno.ts';
import type { StatusExtent } from '../../protocol/reply.ts';
import { BackendError } from '../backend-error.ts';
import { extentTurns } from '../turns.ts';

export const RESIDENT_CONTEXT = 'x-nbd-serve:resident';

/** Status bits: the pages are in the page cache; they are dirty or on their way to disk. */
export const STATE_RESIDENT = 1 << 0;
export const STATE_UNWRITTEN = 1 << 1;

/** Bytes from `begin` to before `end`. */
interface Span {
  readonly begin: number;
  readonly end: number;
}

/** Bytes of the resident pages of a range. */
export async function residentBytes(fd: number, offset: number, length: number): Promise<number> {
  const [resident = 0] = await countPages(fd, offset, length);
  return resident * native.page_size;
}

/** Runs of equal status from `offset` on; fewer than asked for when the search takes too long (limits.ts). */
export async function findResident(fd: number, offset: number, length: number): Promise<StatusExtent[]> {
  const extents: StatusExtent[] = [];
  const deadline = performance.now() + EXTENT_SEARCH_MS_MAX;
  const todo: Span[] = [{ begin: offset, end: offset + length }];
  for (let span = todo.pop(); span !== undefined; span = todo.pop()) {
    const status = await uniformStatus(fd, span);
    const turn = extentTurns.take();
    if (turn !== undefined) {
      await turn;
    }
    if (status === undefined) {
      const middle = middlePage(span);
      todo.push({ begin: middle, end: span.end }, { begin: span.begin, end: middle });
    } else {
      extents.push({ length: span.end - span.begin, status });
      if (extents.length >= EXTENT_COUNT_MAX || performance.now() > deadline) {
        break;
      }
    }
  }
  return extents;
}

/** The status of all pages of a span, or undefined when they differ. */
async function uniformStatus(fd: number, { begin, end }: Span): Promise<number | undefined> {
  const [resident = 0, dirty = 0, writeback = 0] = await countPages(fd, begin, end - begin);
  const pages = Math.ceil(end / native.page_size) - Math.floor(begin / native.page_size);
  if (resident === 0) {
    return 0;
  }
  // With mincore, before Linux 6.5, the other counts are -1: nothing is known of dirty pages.
  const unwritten = Math.max(dirty, 0) + Math.max(writeback, 0);
  if (pages === 1 || (resident >= pages && (unwritten === 0 || unwritten >= pages))) {
    return STATE_RESIDENT | (unwritten > 0 ? STATE_UNWRITTEN : 0);
  }
  return undefined;
}

/** The counts of cachestat (native/binding.ts). */
async function countPages(fd: number, offset: number, length: number): Promise<Float64Array> {
  const counts = new Float64Array(5);
  const result = await call((done) => {
    native.cachestat(fd, offset, length, counts, done);
  });
  if (result < 0) {
    throw new BackendError(errnoOf(result), 'cachestat', offset, length);
  }
  return counts;
}

/** A page boundary inside a span of two pages or more. */
function middlePage({ begin, end }: Span): number {
  const size = native.page_size;
  const first = Math.floor(begin / size);
  const last = Math.ceil(end / size);
  return Math.floor((first + last) / 2) * size;
}
