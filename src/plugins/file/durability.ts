/**
 * What FLUSH and FUA may promise for one file. Linux reports a write-back error once per open file
 * description, to whichever call asks first: fdatasync, but also sync_file_range with WAIT, whose error the
 * next fdatasync no longer sees (measured on 6.18: it succeeded with 14 of 20 blocks lost). Hence:
 *
 *  - one descriptor, opened at start and never reopened;
 *  - every call on it that can consume an error runs under `watch`, and its error is latched here;
 *  - a request that fails with a fault of the device goes through `failed` and is latched as well;
 *  - fdatasync runs one at a time, and a FLUSH that arrives meanwhile waits for the next one;
 *  - a FLUSH succeeds only after every watched call that overlapped its fdatasync has reported, because such
 *    a call may hold the very error that this fdatasync therefore did not see.
 *
 * Once latched, every FLUSH and FUA fails until the process is restarted.
 */

import type { Logger } from '../../log.ts';
import { native } from '../../native/binding.ts';
import { call, type RangeResult } from '../../native/call.ts';
import {
  EACCES,
  EAGAIN,
  EDQUOT,
  EFAULT,
  EFBIG,
  EINVAL,
  EIO,
  ENOMEM,
  ENOSPC,
  EOPNOTSUPP,
  EPERM,
  errnoName,
  errnoOf,
} from '../../native/errno.ts';
import type { LinuxErrno } from '../../protocol/errno.ts';
import { BackendError } from '../backend-error.ts';

/**
 * What a write, zero or trim may fail with although everything that was acknowledged is as safe as before: no
 * room, no memory, or a request that is refused as such. Anything else (EIO, EROFS, ENXIO...) says that the
 * device or file system fails, and what it holds in the page cache for us may never reach it.
 */
const HARMLESS: ReadonlySet<LinuxErrno> = new Set([
  ENOSPC,
  EDQUOT,
  EFBIG,
  ENOMEM,
  EAGAIN,
  EPERM,
  EACCES,
  EINVAL,
  EFAULT,
  EOPNOTSUPP,
]);

/** Threads with handles of the file, which change it and watch calls there. */
export interface OtherThreads {
  /** Whether one of them has changed the file since the last time this was asked. */
  takeChanged(): boolean;
  /** Done when every call that one of them watches now has reported, and its error is latched here. */
  settled(): Promise<void>;
}

/** What a handle and its write windows use of a file's durability. */
export type FileDurability = Pick<Durability, 'changed' | 'flush' | 'watch' | 'failed'>;

/** Whether the error of a request that changes the file says that acknowledged data may be lost. */
export function isLoss(error: unknown): error is BackendError {
  return error instanceof BackendError && !HARMLESS.has(error.errno);
}

/** What surrounds one file's durability; a test puts fakes here. */
export interface DurabilityOptions {
  readonly fd: number;
  /** Bytes of the export, for the log. */
  readonly size: number;
  readonly log: Logger;
  /** Called once, at the first loss of acknowledged data. */
  readonly onLoss: () => void;
  /** Undefined: all handles are in this thread. */
  readonly threads?: OtherThreads | undefined;
  /** The system call behind a FLUSH: 0 or -errno. */
  readonly fdatasync?: (fd: number) => Promise<number>;
}

export class Durability {
  readonly #options: DurabilityOptions;
  readonly #fdatasync: (fd: number) => Promise<number>;
  readonly #watched = new Set<Promise<void>>();
  #lost: BackendError | undefined;
  #lossCount = 0;
  #lastLogged = '';
  #isLossReported = false;
  #changeCount = 0;
  #hasUnflushed = false;
  #running: Promise<void> | undefined;
  #following: Promise<void> | undefined;

  constructor(options: DurabilityOptions) {
    this.#options = options;
    this.#fdatasync = options.fdatasync ?? nativeFdatasync;
  }

  /** The first loss of acknowledged data; set once, for ever. */
  get lost(): BackendError | undefined {
    return this.#lost;
  }

  /** Errors that were latched so far. */
  get lossCount(): number {
    return this.#lossCount;
  }

  /** Changes of the file so far, in this thread. */
  get changeCount(): number {
    return this.#changeCount;
  }

  /** To be called for every change of the file, before it is acknowledged. */
  changed(): void {
    this.#changeCount += 1;
    this.#hasUnflushed = true;
  }

  /** As `flush`, without a system call when nothing has changed since the last one. */
  async flushIfChanged(): Promise<void> {
    if (this.#hasUnflushed || this.#options.threads?.takeChanged() === true) {
      await this.flush();
    } else {
      // A flush that is under way may yet fail; so may a watched call, for somebody else's writes.
      await this.#running;
      await Promise.all(this.#watched);
    }
    this.assertNothingLost();
  }

  /** Durability of everything that was written before this call; rejects from the first loss on. */
  flush(): Promise<void> {
    if (this.#following !== undefined) {
      return this.#following;
    }
    if (this.#running === undefined) {
      return this.#start();
    }
    // The running fdatasync may have begun before the caller's data was written; only the next one covers it.
    const start = (): Promise<void> => this.#start();
    this.#following = this.#running.then(start, start);
    return this.#following;
  }

  /** Starts a call that can consume a write-back error, and latches that error. */
  watch(operation: string, start: () => Promise<RangeResult>): Promise<void> {
    const reported = this.#report(operation, start()).finally(() => this.#watched.delete(reported));
    this.#watched.add(reported);
    return reported;
  }

  /** To be called with the error of a request that changes the file; gives it back, latched if need be. */
  failed(error: unknown): unknown {
    if (isLoss(error)) {
      this.latch(error);
    }
    return error;
  }

  /** Records that acknowledged data may be lost. Only the first loss decides what clients are told. */
  latch(loss: BackendError): void {
    this.#lossCount += 1;
    this.#logLoss(loss);
    if (this.#lost === undefined) {
      this.#lost = loss;
      this.#options.onLoss();
    }
  }

  /** Throws what a FLUSH would be answered now. */
  assertNothingLost(): void {
    if (this.#lost === undefined) {
      return;
    }
    // The first failing FLUSH names the errno of the loss, so that a full disk can be told from a broken one.
    const errno: LinuxErrno = this.#isLossReported ? EIO : this.#lost.errno;
    this.#isLossReported = true;
    const { operation, offset, length, message } = this.#lost;
    const told = `Acknowledged data was lost, and FLUSH and FUA fail until restart: ${message}`;
    const error = new BackendError(errno, operation, offset, length, told);
    error.isLogged = true;
    throw error;
  }

  /** One line for each loss; a drain and a call that it overlapped may both report the same one. */
  #logLoss(loss: BackendError): void {
    const { operation, offset, length, message } = loss;
    loss.isLogged = true;
    if (message !== this.#lastLogged) {
      this.#lastLogged = message;
      this.#options.log.error(
        { operation, offset, length, errno: errnoName(loss.errno), lossCount: this.#lossCount },
        'Acknowledged data was lost; every FLUSH and FUA fails until restart',
      );
    }
  }

  #start(): Promise<void> {
    this.#following = undefined;
    this.#running = this.#runFlush();
    return this.#running;
  }

  async #report(operation: string, work: Promise<RangeResult>): Promise<void> {
    const { result, offset, length } = await work;
    if (result < 0) {
      this.latch(new BackendError(errnoOf(result), operation, offset, length));
    }
  }

  async #runFlush(): Promise<void> {
    const { fd, size, threads } = this.#options;
    this.#hasUnflushed = false;
    threads?.takeChanged();
    try {
      const result = await this.#fdatasync(fd);
      if (result < 0) {
        this.latch(new BackendError(errnoOf(result), 'fdatasync', 0, size));
      }
      await Promise.all(this.#watched);
      if (threads !== undefined) {
        await threads.settled();
      }
      this.assertNothingLost();
    } finally {
      this.#running = undefined;
    }
  }
}

function nativeFdatasync(fd: number): Promise<number> {
  return call((done) => {
    native.fdatasync(fd, done);
  });
}
