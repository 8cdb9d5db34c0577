/**
 * Where a file has data and where holes: lseek(2) with SEEK_DATA and SEEK_HOLE in the addon's thread pool
 * (fs-ext, which has it, too, crashes in worker threads: seen with 2.1.1). Block devices and file systems
 * without holes count as one run of data.
 */
import { EXTENT_COUNT_MAX, EXTENT_SEARCH_MS_MAX } from '../../limits.ts';
import { native } from '../../native/binding.ts';
import { call } from '../../native/call.ts';
import { SEEK_DATA, SEEK_HOLE } from '../../native/constants.ts';
import { EINVAL, ENOSYS, ENXIO, EOPNOTSUPP, errnoOf } from '../../native/errno.ts';
import type { LinuxErrno } from '../../protocol/errno.ts';
import { BackendError } from '../backend-error.ts';
import type { Extent } from '../plugin.ts';
import { extentTurns } from '../turns.ts';
import { FileBounds } from './file-bounds.ts';

/** What a file system answers that does not know SEEK_DATA. */
const UNSUPPORTED: readonly LinuxErrno[] = [EINVAL, EOPNOTSUPP, ENOSYS];

export class ExtentFinder {
  readonly #fd: number;
  readonly #size: number;
  readonly #bounds: FileBounds;
  #canSeek: boolean;

  /** `canSeek`: false for block devices, whose lseek knows neither data nor holes. */
  constructor(fd: number, size: number, canSeek: boolean, bounds = new FileBounds(fd, size, canSeek)) {
    this.#fd = fd;
    this.#size = size;
    this.#bounds = bounds;
    this.#canSeek = canSeek;
  }

  /** Extents from `offset` on; fewer than asked for when the search takes too long (limits.ts). */
  async find(offset: number, length: number, isRequestOne: boolean): Promise<readonly Extent[]> {
    const end = offset + length;
    const extents: Extent[] = [];
    const deadline = performance.now() + EXTENT_SEARCH_MS_MAX;
    let position = offset;
    while (position < end) {
      const [data, hole] = await this.#findRun(position);
      const turn = extentTurns.take();
      if (turn !== undefined) {
        await turn;
      }
      if (data > position) {
        extents.push({ length: data - position, isHole: true, isZero: true });
      }
      if (hole > data) {
        extents.push({ length: hole - data, isHole: false, isZero: false });
      }
      position = hole;
      if (isRequestOne || extents.length >= EXTENT_COUNT_MAX || performance.now() > deadline) {
        break;
      }
    }
    // Nothing found: the data vanished between the two calls each time. "Allocated" is always a safe answer.
    return this.#clip(offset, extents.length > 0 ? extents : [{ length, isHole: false, isZero: false }]);
  }

  /** The next run of data at or after `position`: its first byte, and the first byte of the hole behind it. */
  async #findRun(position: number): Promise<readonly [number, number]> {
    if (!this.#canSeek) {
      return [position, this.#size];
    }
    const data = await this.#search(SEEK_DATA, position);
    const hole = data === undefined || data >= this.#size ? this.#size : await this.#search(SEEK_HOLE, data);
    return data === undefined || hole === undefined ? [position, this.#size] : [data, hole];
  }

  /**
   * Past the end of a truncated file lseek finds one long hole, and a client would take it for zeros: the
   * answer ends where the file does. Looked up after the search, which may have seen the file shrink.
   */
  #clip(offset: number, extents: readonly Extent[]): readonly Extent[] {
    const end = this.#bounds.present();
    if (end >= this.#size) {
      return extents;
    }
    this.#bounds.assertPresent('lseek', offset, 1);
    const clipped: Extent[] = [];
    let position = offset;
    for (const extent of extents) {
      const length = Math.min(extent.length, end - position);
      if (length > 0) {
        clipped.push({ ...extent, length });
      }
      position += extent.length;
    }
    return clipped;
  }

  /** Up to the end of the export; undefined where the file system knows nothing of holes. */
  async #search(whence: number, position: number): Promise<number | undefined> {
    const found = await call((done) => {
      native.lseek(this.#fd, position, whence, done);
    });
    if (found >= 0) {
      return Math.min(found, this.#size);
    }
    const errno = errnoOf(found);
    if (errno === ENXIO) {
      // lseek(2): no data from here to the end of the file.
      return this.#size;
    }
    if (UNSUPPORTED.includes(errno)) {
      this.#canSeek = false;
      return undefined;
    }
    throw new BackendError(errno, 'lseek', position, this.#size - position);
  }
}
