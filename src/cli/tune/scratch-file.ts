/**
 * The file that a sweep writes, on the same file system as the user's own, which is never written.
 *
 * It has no name: O_TMPFILE makes it without one, and where the file system knows no such thing it is unlinked
 * right after it was made, in the same turn of the event loop. So nothing is left in the directory however the
 * process ends, SIGKILL and power loss included. The file plugin opens it through /proc/self/fd.
 */
import {
  close as closeDescriptor,
  closeSync,
  constants,
  fstatSync,
  ftruncateSync,
  openSync,
  realpathSync,
  statfsSync,
  statSync,
  unlinkSync,
} from 'node:fs';
import { dirname, join } from 'node:path';
import { promisify } from 'node:util';
import { native } from '../../native/binding.ts';
import { call } from '../../native/call.ts';
import { POSIX_FADV_DONTNEED } from '../../native/constants.ts';
import { CommandError } from '../command-error.ts';
import { cachedPages, PAGE_BYTES } from '../page-cache.ts';

/** open(2); Node does not export it. The number is that of every architecture Node runs on. */
const O_TMPFILE = 0o20_000_000 | constants.O_DIRECTORY;

/** What open(2) answers where O_TMPFILE is not supported; EISDIR and ENOENT before Linux 3.11. */
const NO_TMPFILE: ReadonlySet<string> = new Set(['EOPNOTSUPP', 'EISDIR', 'ENOENT', 'EINVAL']);

export class ScratchFile {
  readonly directory: string;
  /** A path that opens it, while it is open here. */
  readonly path: string;
  readonly #fd: number;

  private constructor(directory: string, fd: number) {
    this.directory = directory;
    this.#fd = fd;
    this.path = `/proc/self/fd/${fd}`;
  }

  /** Makes an empty one beside `path`, or in it when it is a directory. */
  static create(path: string): ScratchFile {
    const directory = directoryFor(path);
    return new ScratchFile(directory, openNameless(directory));
  }

  /** Refuses a size in bytes that does not fit. */
  assertSpaceFor(size: number): void {
    const { bavail, bsize } = statfsSync(this.directory);
    const free = bavail * bsize;
    if (free < size) {
      throw new CommandError(
        `Not enough space in "${this.directory}": the scratch file needs ${size} bytes, ${free} are free; give a smaller --size`,
      );
    }
  }

  /** Makes it sparse, of this size in bytes. */
  resize(size: number): void {
    try {
      ftruncateSync(this.#fd, size);
    } catch (error) {
      throw refusal(`Cannot make a scratch file of ${size} bytes in "${this.directory}"`, error);
    }
  }

  async residentBytes(): Promise<number> {
    return (await cachedPages(this.#fd, 0, 0, this.directory)).resident * PAGE_BYTES;
  }

  /** Drops its clean pages from the cache. */
  async evict(): Promise<void> {
    // What stays is only a less cold start for the next run.
    await call((done) => {
      native.posix_fadvise(this.#fd, 0, 0, POSIX_FADV_DONTNEED, done);
    });
  }

  /** Frees its space, which takes a while, once nobody else has it open. */
  async close(): Promise<void> {
    await promisify(closeDescriptor)(this.#fd);
  }
}

/** Whether both names lead to the same file. */
export function isSameFile(one: string, other: string): boolean {
  const [first, second] = [one, other].map((path) => statSync(path, { bigint: true, throwIfNoEntry: false }));
  return first !== undefined && first.dev === second?.dev && first.ino === second.ino;
}

function directoryFor(path: string): string {
  try {
    const stats = statSync(path);
    if (stats.isDirectory()) {
      return path;
    }
    if (stats.isFile()) {
      // Through symbolic links: the disk of the file counts, not that of its name.
      return dirname(realpathSync(path));
    }
    const kind = stats.isBlockDevice() ? 'a block device, and would be overwritten' : 'no regular file';
    throw new CommandError(`"${path}" is ${kind}; give a file or a directory on the disk to measure`);
  } catch (error) {
    throw error instanceof CommandError ? error : refusal(`Cannot tune for "${path}"`, error);
  }
}

function openNameless(directory: string): number {
  try {
    return openSync(directory, O_TMPFILE | constants.O_RDWR, 0o600);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === undefined || !NO_TMPFILE.has(code)) {
      throw refusal(`Cannot make a scratch file in "${directory}"`, error);
    }
  }
  const path = join(directory, `.nbd-serve-tune-${process.pid}-${Date.now()}`);
  try {
    const fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o600);
    unlinkSync(path);
    if (fstatSync(fd).nlink !== 0) {
      closeSync(fd);
      throw new CommandError(`Cannot make a scratch file in "${directory}" that leaves nothing behind`);
    }
    return fd;
  } catch (error) {
    throw error instanceof CommandError
      ? error
      : refusal(`Cannot make a scratch file in "${directory}"`, error);
  }
}

function refusal(what: string, error: unknown): CommandError {
  return new CommandError(`${what}: ${reasonOf(error as NodeJS.ErrnoException)}`);
}

function reasonOf({ code, message }: NodeJS.ErrnoException): string {
  switch (code) {
    case 'ENOENT':
      return 'there is no such file or directory';
    case 'EACCES':
    case 'EPERM':
      return 'permission denied';
    case 'EROFS':
      return 'the file system is read-only';
    case 'ENOSPC':
    case 'EDQUOT':
      return 'there is no space left';
    case 'ENOTDIR':
      return 'a part of the path is no directory';
    default:
      return code ?? message;
  }
}
