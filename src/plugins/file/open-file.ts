/**
 * Opens what the command line names, once, before anything listens: checks what it is, creates it when asked
 * to, and measures it. Every refusal is one line that names the file.
 */
import {
  closeSync,
  constants,
  fstat,
  fstatSync,
  fsyncSync,
  ftruncateSync,
  open,
  openSync,
  statSync,
  unlinkSync,
} from 'node:fs';
import { access, statfs } from 'node:fs/promises';
import { dirname } from 'node:path';
import { promisify } from 'node:util';
import { seekSync } from 'fs-ext';
import { EXPORT_BYTES_MAX } from '../../limits.ts';
import { native } from '../../native/binding.ts';
import { call } from '../../native/call.ts';
import { POSIX_FADV_RANDOM, SEEK_END } from '../../native/constants.ts';

/** A file that cannot be served, in one line for people. */
export class FileRefusedError extends Error {
  override readonly name = 'FileRefusedError';
  /** The code of the system call that failed, such as ENOENT. */
  readonly code: string | undefined;

  constructor(message: string, code?: string) {
    super(message);
    this.code = code;
  }
}

export interface OpenFile {
  readonly fd: number;
  /** Bytes, exact. */
  readonly size: number;
  readonly isBlockDevice: boolean;
  /** Made by this call. */
  readonly isNew: boolean;
}

/**
 * Opens `path` for reading, and for writing unless `isReadOnly`. With `createSize` a missing file is made
 * sparse, of that size in bytes, with mode 0666 less the umask; an existing one is left as it is.
 */
export function openFile(path: string, isReadOnly: boolean, createSize: number | undefined): OpenFile {
  const created = createSize === undefined ? undefined : createFile(path, createSize);
  const fd = created ?? openExisting(path, isReadOnly);
  try {
    const measured = measure(fd, path);
    // Linux opens a read-only block device for writing and then fails every write with EPERM.
    if (measured.isBlockDevice && !isReadOnly && native.blkroget(fd) === 1) {
      throw new FileRefusedError(`Cannot open "${path}" for writing: the device is read-only`, 'EROFS');
    }
    return { fd, isNew: created !== undefined, ...measured };
  } catch (error) {
    closeSync(fd);
    throw error;
  }
}

/** statfs(2) magic number of ext2, ext3 and ext4, which one driver serves. */
const EXT4 = 0xef53;

/** Whether an open file is on ext4; false where that cannot be told. */
export async function isOnExt4({ fd, isBlockDevice }: OpenFile): Promise<boolean> {
  try {
    return !isBlockDevice && (await statfs(`/proc/self/fd/${fd}`)).type === EXT4;
  } catch {
    return false;
  }
}

const XFS = 0x5846_5342;

/** Whether the times and the size of an open file tell of every change, by whomever: a regular file on a local ext4 or XFS. */
export async function tellsChanges({ fd, isBlockDevice }: OpenFile): Promise<boolean> {
  try {
    const { type } = await statfs(`/proc/self/fd/${fd}`);
    return !isBlockDevice && (type === EXT4 || type === XFS);
  } catch {
    return false;
  }
}

/** Of a file that is neither ours nor writable, mincore(2) calls every page resident, since Linux 5.0. */
export async function tellsResidency({ fd }: OpenFile): Promise<boolean> {
  try {
    const { uid } = await promisify(fstat)(fd);
    if (uid !== process.geteuid?.()) {
      await access(`/proc/self/fd/${fd}`, constants.W_OK);
    }
    return true;
  } catch {
    return false;
  }
}

/** statfs(2) magic number of btrfs, which takes O_DIRECT and then reads data with checksums through the cache. */
const BTRFS = 0x9123_683e;

/**
 * A second descriptor of an open file, whose reads and writes bypass the page cache; undefined where that cannot be, or there
 * is no /proc. What falls back to the cache all the same (ext4 with data=journal) sets off no read-ahead of the kernel's.
 */
export async function openDirect(fd: number, isReadOnly: boolean): Promise<number | undefined> {
  const path = `/proc/self/fd/${fd}`;
  try {
    if ((await statfs(path)).type === BTRFS) {
      return undefined;
    }
    const access = isReadOnly ? constants.O_RDONLY : constants.O_RDWR;
    const directFd = await promisify(open)(path, access | constants.O_DIRECT);
    await call((done) => {
      native.posix_fadvise(directFd, 0, 0, POSIX_FADV_RANDOM, done);
    });
    return directFd;
  } catch {
    return undefined;
  }
}

/** The new file's descriptor, or undefined when there is a file already. */
function createFile(path: string, size: number): number | undefined {
  let fd: number;
  try {
    fd = openSync(path, constants.O_RDWR | constants.O_CREAT | constants.O_EXCL, 0o666);
  } catch (error) {
    if (isCode(error, 'EEXIST')) {
      return undefined;
    }
    throw refusal('create', path, error);
  }
  try {
    ftruncateSync(fd, size);
    syncFolder(dirname(path));
    return fd;
  } catch (error) {
    closeSync(fd);
    unlinkSync(path);
    throw isCode(error, 'EFBIG')
      ? new FileRefusedError(`Cannot create "${path}": the file system holds no file of ${size} bytes`)
      : refusal('create', path, error);
  }
}

/** Without it a crash could lose the name of an image whose contents a FLUSH has promised. */
function syncFolder(folder: string): void {
  const fd = openSync(folder, constants.O_RDONLY | constants.O_DIRECTORY);
  try {
    fsyncSync(fd);
  } catch (error) {
    // Some network and FUSE file systems know no fsync of a directory: then there is nothing better to do.
    if (!isCode(error, 'EINVAL')) {
      throw error;
    }
  } finally {
    closeSync(fd);
  }
}

function openExisting(path: string, isReadOnly: boolean): number {
  try {
    // Before open(2): to open a FIFO or a tape drive would wait, or do something.
    assertServable(statSync(path), path);
    return openSync(path, isReadOnly ? constants.O_RDONLY : constants.O_RDWR);
  } catch (error) {
    throw error instanceof FileRefusedError ? error : refusal('open', path, error);
  }
}

function measure(fd: number, path: string): { size: number; isBlockDevice: boolean } {
  const stats = fstatSync(fd, { bigint: true });
  assertServable(stats, path);
  const isBlockDevice = stats.isBlockDevice();
  const size = isBlockDevice ? seekSync(fd, 0, SEEK_END) : Number(stats.size);
  if (size > EXPORT_BYTES_MAX || (!isBlockDevice && stats.size > BigInt(EXPORT_BYTES_MAX))) {
    throw new FileRefusedError(`"${path}" has more than ${EXPORT_BYTES_MAX} bytes, the most that is served`);
  }
  return { size, isBlockDevice };
}

interface FileKind {
  isFile(): boolean;
  isBlockDevice(): boolean;
  isDirectory(): boolean;
  isFIFO(): boolean;
}

function assertServable(stats: FileKind, path: string): void {
  if (stats.isFile() || stats.isBlockDevice()) {
    return;
  }
  const kind = stats.isDirectory()
    ? 'a directory'
    : stats.isFIFO()
      ? 'a FIFO'
      : 'neither a file nor a block device';
  throw new FileRefusedError(`"${path}" is ${kind}; give a regular file or a block device`);
}

function refusal(verb: 'open' | 'create', path: string, error: unknown): FileRefusedError {
  const { code } = error as NodeJS.ErrnoException;
  return new FileRefusedError(`Cannot ${verb} "${path}": ${reasonOf(error, verb)}`, code);
}

function reasonOf(error: unknown, verb: 'open' | 'create'): string {
  const { code, message } = error as NodeJS.ErrnoException;
  switch (code) {
    case 'ENOENT':
      return verb === 'open' ? 'there is no such file' : 'there is no such directory';
    case 'EACCES':
    case 'EPERM':
      return 'permission denied';
    case 'EROFS':
      return 'the file system is read-only';
    case 'EISDIR':
      return 'it is a directory';
    case 'ENOTDIR':
      return 'a part of the path is no directory';
    case 'ENAMETOOLONG':
      return 'the path is too long';
    default:
      return code ?? message;
  }
}

function isCode(error: unknown, code: string): boolean {
  return (error as NodeJS.ErrnoException).code === code;
}
