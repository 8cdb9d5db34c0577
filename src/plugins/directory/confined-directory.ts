/**
 * Looks names up in one directory and never outside of it. A name is one component; symbolic links are followed
 * as long as they stay inside, which the kernel guarantees (openat2 with RESOLVE_BENEATH), whatever is renamed
 * meanwhile. What is found is pinned first: an O_PATH descriptor names the file without opening it, so that a
 * FIFO or a device is told from a regular file before anything happens to it.
 */
import { type BigIntStats, close, constants, fstat, open } from 'node:fs';
import { realpath, stat } from 'node:fs/promises';
import { promisify } from 'node:util';
import type { Logger } from '../../log.ts';
import { native } from '../../native/binding.ts';
import { call } from '../../native/call.ts';
import {
  O_PATH,
  RESOLVE_BENEATH,
  RESOLVE_NO_MAGICLINKS,
  RESOLVE_NO_SYMLINKS,
} from '../../native/constants.ts';
import {
  ELOOP,
  ENAMETOOLONG,
  ENOENT,
  ENOSYS,
  ENOTDIR,
  EPERM,
  EXDEV,
  errnoName,
  errnoOf,
} from '../../native/errno.ts';
import type { LinuxErrno } from '../../protocol/errno.ts';
import { FileRefusedError } from '../file/open-file.ts';

const closeDescriptor = promisify(close);
const openDescriptor = promisify(open);

/** The answers that mean "not in here", in whatever way. */
const ABSENT: ReadonlySet<LinuxErrno> = new Set([ENOENT, ENOTDIR, ELOOP, ENAMETOOLONG, EXDEV]);

/** A regular file of the directory, and the O_PATH descriptor that names it. */
export interface PinnedFile {
  readonly fd: number;
  readonly stats: BigIntStats;
}

export class ConfinedDirectory {
  /** Where it was at start; the descriptor stays with the directory when that is moved. */
  readonly path: string;
  readonly #fd: number;
  /** False: the kernel or a sandbox has no openat2, and no symbolic link is followed. */
  readonly #hasOpenat2: boolean;

  private constructor(path: string, fd: number, hasOpenat2: boolean) {
    this.path = path;
    this.#fd = fd;
    this.#hasOpenat2 = hasOpenat2;
  }

  /** Rejects with a FileRefusedError. */
  static async open(path: string, log: Logger): Promise<ConfinedDirectory> {
    const { fd, resolved } = await openDirectory(path);
    const probe = await openBeneath(fd, '.', RESOLVE_BENEATH);
    if (probe >= 0) {
      await closeDescriptor(probe);
      return new ConfinedDirectory(resolved, fd, true);
    }
    const errno = errnoOf(probe);
    if (errno !== ENOSYS && errno !== EPERM) {
      await closeDescriptor(fd);
      throw new FileRefusedError(`Cannot open "${path}": openat2 fails with ${errnoName(errno)}`);
    }
    log.warn({ errno: errnoName(errno) }, 'openat2 is missing or forbidden: symbolic links are not followed');
    return new ConfinedDirectory(resolved, fd, false);
  }

  /** The same directory for calls that take a path. */
  get descriptorPath(): string {
    return descriptorPath(this.#fd);
  }

  /** Pins the regular file of this name while `use` runs; undefined when there is none. */
  async pin<Result>(name: string, use: (file: PinnedFile) => Promise<Result>): Promise<Result | undefined> {
    if (!isFileName(name)) {
      return undefined;
    }
    const fd = await this.#find(name);
    if (fd === undefined) {
      return undefined;
    }
    try {
      const stats = await promisify(fstat)(fd, { bigint: true });
      return stats.isFile() ? await use({ fd, stats }) : undefined;
    } finally {
      await closeDescriptor(fd);
    }
  }

  async close(): Promise<void> {
    await closeDescriptor(this.#fd);
  }

  /** An O_PATH descriptor. */
  async #find(name: string): Promise<number | undefined> {
    if (!this.#hasOpenat2) {
      return this.#findWithoutLinks(name);
    }
    const result = await openBeneath(this.#fd, name, RESOLVE_BENEATH | RESOLVE_NO_MAGICLINKS);
    if (result >= 0) {
      return result;
    }
    const errno = errnoOf(result);
    if (errno === EXDEV) {
      return this.#findByAbsoluteLink(name);
    }
    if (ABSENT.has(errno)) {
      return undefined;
    }
    throw new FileRefusedError(`Cannot open "${name}": ${errnoName(errno)}`);
  }

  /** RESOLVE_BENEATH refuses every absolute link, also one that leads back in. */
  async #findByAbsoluteLink(name: string): Promise<number | undefined> {
    const target = await realpath(`${this.path}/${name}`).catch(() => undefined);
    if (target?.startsWith(`${this.path}/`) !== true) {
      return undefined;
    }
    // The path may have changed since it was looked at; the kernel has the last word on where it leads.
    const inside = target.slice(this.path.length + 1);
    const result = await openBeneath(this.#fd, inside, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
    return result < 0 ? undefined : result;
  }

  /** One component that is no link cannot lead out: of a link O_PATH and O_NOFOLLOW give the link itself. */
  async #findWithoutLinks(name: string): Promise<number | undefined> {
    try {
      return await openDescriptor(`${this.descriptorPath}/${name}`, O_PATH | constants.O_NOFOLLOW);
    } catch (error) {
      const { errno } = error as NodeJS.ErrnoException;
      if (errno !== undefined && ABSENT.has(errnoOf(errno))) {
        return undefined;
      }
      throw error;
    }
  }
}

/** Opens what a descriptor names, without a second look at its path (proc(5), /proc/pid/fd). */
export function reopen(fd: number, flags: number): Promise<number> {
  return openDescriptor(descriptorPath(fd), flags);
}

/** One component that is not a way to another directory. */
export function isFileName(name: string): boolean {
  return name !== '' && name !== '.' && name !== '..' && !/[/\0]/.test(name);
}

async function openDirectory(path: string): Promise<{ fd: number; resolved: string }> {
  let fd: number | undefined;
  try {
    fd = await openDescriptor(path, constants.O_RDONLY | constants.O_DIRECTORY);
    const resolved = await realpath(path);
    await stat(descriptorPath(fd)).catch(() => {
      throw new FileRefusedError(`Cannot serve "${path}": a directory needs /proc to be mounted`);
    });
    return { fd, resolved };
  } catch (error) {
    if (fd !== undefined) {
      await closeDescriptor(fd);
    }
    if (error instanceof FileRefusedError) {
      throw error;
    }
    const { code } = error as NodeJS.ErrnoException;
    throw new FileRefusedError(
      `Cannot open "${path}": ${REASONS[code ?? ''] ?? code ?? String(error)}`,
      code,
    );
  }
}

const REASONS: Readonly<Record<string, string>> = {
  ENOENT: 'there is no such directory',
  ENOTDIR: 'it is no directory',
  EACCES: 'permission denied',
};

function openBeneath(dirfd: number, path: string, resolve: number): Promise<number> {
  return call((done) => {
    native.openat2(dirfd, path, O_PATH, resolve, done);
  });
}

function descriptorPath(fd: number): string {
  return `/proc/self/fd/${fd}`;
}
