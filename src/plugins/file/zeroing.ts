/**
 * The zeroing ladder: ways to make a range read as zeros, the cheapest first. A way that the file system or
 * device does not know is switched off for the file; what remains at the bottom is writing zeros.
 *
 *   regular file   punch a hole (unless it must stay allocated), zero range, punch and allocate again
 *   block device   punch (unmap, guaranteed to read as zeros), zero range, BLKZEROOUT
 *
 * BLKDISCARD is used for TRIM only: Linux does not promise that discarded blocks read as zeros.
 */
import { native } from '../../native/binding.ts';
import { call } from '../../native/call.ts';
import { FALLOC_FL_KEEP_SIZE, FALLOC_FL_PUNCH_HOLE, FALLOC_FL_ZERO_RANGE } from '../../native/constants.ts';
import { EINVAL, ENODEV, ENOSYS, ENOTTY, EOPNOTSUPP, errnoOf } from '../../native/errno.ts';
import { BackendError } from '../backend-error.ts';
import type { ZeroOptions } from '../plugin.ts';

type Way = (fd: number, offset: number, length: number) => Promise<number>;

interface Rung {
  readonly name: string;
  readonly way: Way;
  /** True when the range stays allocated, as NBD_CMD_FLAG_NO_HOLE asks. */
  readonly keepsAllocation: boolean;
  /** False when the kernel may fall back to writing zeros itself. */
  readonly isFast: boolean;
}

const punch: Way = (fd, offset, length) =>
  call((done) => {
    native.fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, offset, length, done);
  });

const zeroRange: Way = (fd, offset, length) =>
  call((done) => {
    native.fallocate(fd, FALLOC_FL_ZERO_RANGE | FALLOC_FL_KEEP_SIZE, offset, length, done);
  });

const punchAndAllocate: Way = async (fd, offset, length) => {
  const result = await punch(fd, offset, length);
  return result < 0
    ? result
    : call((done) => {
        native.fallocate(fd, FALLOC_FL_KEEP_SIZE, offset, length, done);
      });
};

const blkzeroout: Way = (fd, offset, length) =>
  call((done) => {
    native.blkzeroout(fd, offset, length, done);
  });

const FILE_LADDER: readonly Rung[] = [
  { name: 'punch', way: punch, keepsAllocation: false, isFast: true },
  { name: 'zero range', way: zeroRange, keepsAllocation: true, isFast: true },
  { name: 'punch and allocate', way: punchAndAllocate, keepsAllocation: true, isFast: true },
];

const DEVICE_LADDER: readonly Rung[] = [
  { name: 'punch', way: punch, keepsAllocation: false, isFast: true },
  { name: 'zero range', way: zeroRange, keepsAllocation: true, isFast: false },
  { name: 'BLKZEROOUT', way: blkzeroout, keepsAllocation: true, isFast: false },
];

/** What a file or device answers that does not know a way at all. */
const UNSUPPORTED: readonly number[] = [EOPNOTSUPP, ENOSYS, ENODEV, ENOTTY];

export class Zeroing {
  readonly #fd: number;
  readonly #isBlockDevice: boolean;
  #ladder: readonly Rung[];
  #canTrim = true;

  constructor(fd: number, isBlockDevice: boolean) {
    this.#fd = fd;
    this.#isBlockDevice = isBlockDevice;
    this.#ladder = isBlockDevice ? DEVICE_LADDER : FILE_LADDER;
  }

  /**
   * Zeroes the range by the first rung that works: true, or false when zeros must be written. Rejects with
   * EOPNOTSUPP when that is so and `isFast` is set, and with any error that no other rung would mend.
   */
  async zero(offset: number, length: number, { mayPunch, isFast }: ZeroOptions): Promise<boolean> {
    for (const rung of this.#ladder) {
      if ((rung.keepsAllocation || mayPunch) && (rung.isFast || !isFast)) {
        const result = await rung.way(this.#fd, offset, length);
        if (result >= 0) {
          return true;
        }
        this.#judge(rung, result, offset, length);
      }
    }
    if (isFast) {
      throw new BackendError(EOPNOTSUPP, 'fast zero', offset, length);
    }
    return false;
  }

  /** Gives the range back to the file system or device, where it can; a hint, so "cannot" is no error. */
  async trim(offset: number, length: number): Promise<void> {
    if (!this.#canTrim) {
      return;
    }
    const result = this.#isBlockDevice
      ? await call((done) => {
          native.blkdiscard(this.#fd, offset, length, done);
        })
      : await punch(this.#fd, offset, length);
    const errno = errnoOf(result);
    if (UNSUPPORTED.includes(errno)) {
      this.#canTrim = false;
    } else if (result < 0 && errno !== EINVAL) {
      // EINVAL: a range that is not aligned to the device's blocks. Nothing was discarded, which is legal.
      throw new BackendError(errno, 'trim', offset, length);
    }
  }

  /** Switches a rung off that does not exist here; lets EINVAL pass to the next one; throws the rest. */
  #judge(rung: Rung, result: number, offset: number, length: number): void {
    const errno = errnoOf(result);
    if (UNSUPPORTED.includes(errno)) {
      this.#ladder = this.#ladder.filter((other) => other !== rung);
    } else if (errno !== EINVAL) {
      throw new BackendError(errno, rung.name, offset, length);
    }
  }
}
