/** What of a file or block device is in the page cache, by cachestat(2): exact, and quick enough to sample. */
import { readFileSync } from 'node:fs';
import { type FileHandle, open } from 'node:fs/promises';
import { basename } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { native } from '../../src/native/binding.ts';
import { call } from '../../src/native/call.ts';
import { POSIX_FADV_DONTNEED } from '../../src/native/constants.ts';
import { eventually } from './polling.ts';

const SAMPLE_MS = 2;
const SECTOR_BYTES = 512;

/** Looks at a file without touching a page of it. */
export class PageCacheProbe implements AsyncDisposable {
  readonly #file: FileHandle;

  private constructor(file: FileHandle) {
    this.#file = file;
  }

  static async open(path: string): Promise<PageCacheProbe> {
    return new PageCacheProbe(await open(path, 'r'));
  }

  /** Bytes of the range that are resident; a length of 0 stands for everything behind the offset. */
  async residentBytes(offset = 0, length = 0): Promise<number> {
    return (await this.#count(offset, length)).cached * native.page_size;
  }

  /**
   * Bytes of a range that are resident or that the kernel's memory management has taken since: DAMON pages out
   * what is cold without any shortage, one page here and there. It leaves a shadow entry for each page;
   * POSIX_FADV_DONTNEED leaves none, and removes those that it meets.
   */
  async keptBytes(offset: number, length: number): Promise<number> {
    const { cached, evicted } = await this.#count(offset, length);
    return (cached + evicted) * native.page_size;
  }

  /** The most bytes that were resident at a time until the work was done. */
  async peakDuring(work: Promise<unknown>): Promise<number> {
    let isBusy = true;
    const done = work.finally(() => {
      isBusy = false;
    });
    let peak = 0;
    const watch = (async () => {
      while (isBusy) {
        peak = Math.max(peak, await this.residentBytes());
        await sleep(SAMPLE_MS);
      }
    })();
    await Promise.all([done, watch]);
    return peak;
  }

  /** Waits until everything written to the file is on disk. */
  async sync(): Promise<void> {
    await this.#file.sync();
  }

  /** Drops everything, whoever put it there. */
  async evict(): Promise<void> {
    await this.sync();
    // Somebody else's read-ahead may still be under way, its pages locked.
    await eventually('nothing stays in the page cache', async () => {
      await call((done) => {
        native.posix_fadvise(this.#file.fd, 0, 0, POSIX_FADV_DONTNEED, done);
      });
      return (await this.residentBytes()) === 0 ? true : undefined;
    });
  }

  /** Pages; `evicted` counts shadow entries. */
  async #count(offset: number, length: number): Promise<{ cached: number; evicted: number }> {
    const counts = new Float64Array(5);
    const result = await call((done) => {
      native.cachestat(this.#file.fd, offset, length, counts, done);
    });
    if (result < 0) throw new Error(`cachestat: ${result}`);
    const [cached = 0, , , evicted = 0] = counts;
    return { cached, evicted };
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#file.close();
  }
}

/** Bytes read from a block device so far (Documentation/admin-guide/iostats.rst, field 3). */
export function diskReadBytes(device: string): number {
  const stat = readFileSync(`/sys/class/block/${basename(device)}/stat`, 'utf8');
  return Number(stat.trim().split(/\s+/)[2]) * SECTOR_BYTES;
}
