/**
 * The file plugin: one regular file or block device as an export. It owns the one descriptor that everything
 * goes through, and what all connections share: durability, locks, the zeroing ladder, cache eviction.
 */
import { close as closeDescriptor, rmSync } from 'node:fs';
import { statfs } from 'node:fs/promises';
import { extname } from 'node:path';
import { promisify } from 'node:util';
import type { Logger } from '../../log.ts';
import { native } from '../../native/binding.ts';
import { call } from '../../native/call.ts';
import {
  POSIX_FADV_NORMAL,
  POSIX_FADV_RANDOM,
  POSIX_FADV_SEQUENTIAL,
  SYNC_FILE_RANGE_WRITE,
} from '../../native/constants.ts';
import { EIO, errnoName, errnoOf } from '../../native/errno.ts';
import { BackendError } from '../backend-error.ts';
import { ALLOCATION_CONTEXT, type Handle, type Plugin, type PluginInfo } from '../plugin.ts';
import type { WindowCounter } from '../window-counter.ts';
import { Durability, type OtherThreads } from './durability.ts';
import { FileThreads } from './file-threads.ts';
import { HandleSet } from './handle-set.ts';
import { lockImage } from './image-lock.ts';
import { ChunkMarks } from './kept-chunks.ts';
import {
  FileRefusedError,
  isOnExt4,
  type OpenFile,
  openDirect,
  openFile,
  tellsChanges,
  tellsResidency,
} from './open-file.ts';
import { RESIDENT_CONTEXT, residentBytes } from './residency.ts';
import { createSharedFile, type FileFacts, type ReadAheadAdvice, type SharedFile } from './shared-file.ts';
import type { FileShare } from './thread-link.ts';

export type CacheMode = 'default' | 'none';

export interface FileOptions {
  readonly path: string;
  readonly isReadOnly: boolean;
  readonly cache: CacheMode;
  /** Write windows on their way to disk, of all handles together. */
  readonly windowCount: number;
  /** Bytes of merged ranges that fill a window. */
  readonly windowBytes: number;
  /** With `cache` none: spare what was in the page cache before. */
  readonly keepsResident: boolean;
  readonly hasLock: boolean;
  /** Bytes; undefined: the file must exist. */
  readonly createSize: number | undefined;
  readonly fadvise: ReadAheadAdvice;
  /** Threads that will serve the file, this one included. Default: 1. */
  readonly threadCount?: number;
  /** Called once, when data that was acknowledged is lost. */
  readonly onLoss: () => void;
  /** Takes over when the last handle closes, in place of the drain that the handle's close would wait for. */
  readonly onUnused?: () => void;
  readonly windowCounter?: WindowCounter | undefined;
}

const ADVICE: Readonly<Record<ReadAheadAdvice, number>> = {
  normal: POSIX_FADV_NORMAL,
  random: POSIX_FADV_RANDOM,
  sequential: POSIX_FADV_SEQUENTIAL,
};

/** statfs(2) magic numbers of file systems whose pages are the only copy, so that they cannot be evicted. */
const MEMORY_FILE_SYSTEMS: ReadonlyMap<number, string> = new Map([
  [0x0102_1994, 'tmpfs'],
  [0x8584_58f6, 'ramfs'],
  [0x9584_58f6, 'hugetlbfs'],
]);

/** What was found out about an open file. */
type FileTraits = Pick<FileFacts, 'directFd' | 'isOnExt4' | 'tellsResidency' | 'tellsChanges'>;

export class FilePlugin implements Plugin {
  readonly info: PluginInfo;
  readonly sharing?: NonNullable<Plugin['sharing']>;
  /** Undefined when the file was there before. */
  readonly #createdPath: string | undefined;
  readonly #durability: Durability;
  readonly #shared: SharedFile;
  /** Reads past the page cache with `--cache none`, where the file can do that. */
  readonly #directFd: number | undefined;
  readonly #handles: HandleSet;
  readonly #threads: FileThreads | undefined;
  /** Counts of resident pages under way: they use the descriptor. */
  readonly #counting = new Set<Promise<number>>();
  #isClosing = false;

  private constructor(file: OpenFile, traits: FileTraits, options: FileOptions, log: Logger) {
    const { fd, size, isBlockDevice } = file;
    this.info = describeFile(size, options);
    this.#createdPath = file.isNew ? options.path : undefined;
    this.#directFd = traits.directFd;
    const { threadCount = 1, onLoss, cache, windowCount, windowBytes, keepsResident, fadvise } = options;
    const createDurability = (threads?: OtherThreads): Durability =>
      new Durability({ fd, size, log, onLoss, threads });
    this.#threads =
      threadCount === 1
        ? undefined
        : new FileThreads(threadCount, createDurability, () => this.#shared.eviction?.flushed());
    this.#durability = this.#threads?.durability ?? createDurability();
    const facts: FileFacts = {
      fd,
      size,
      isBlockDevice,
      ...traits,
      fadvise,
      cacheNone: cache === 'none' ? { windowCount, windowBytes, keepsResident } : undefined,
    };
    const chunkMarks =
      this.#threads && cache === 'none' && keepsResident ? ChunkMarks.create(size) : undefined;
    this.#shared = createSharedFile(facts, {
      durability: this.#durability,
      log,
      threadCount,
      chunkMarks,
      sweepOthers: this.#threads && (() => this.#threads?.sweepOthers()),
      windowCounter: options.windowCounter,
      changeCount: this.#threads === undefined ? () => this.#durability.changeCount : undefined,
    });
    this.#handles = new HandleSet(this.#shared, options.onUnused);
    if (this.#threads !== undefined) {
      const { words, channels } = this.#threads;
      const data: FileShare = { info: this.info, facts, chunkWords: chunkMarks?.words, words, channels };
      this.sharing = { module: ATTACHED_FILE, data };
    }
  }

  /** Opens, locks and probes the file. Rejects with a FileRefusedError or an ImageLockedError. */
  static async open(options: FileOptions, log: Logger): Promise<FilePlugin> {
    return FilePlugin.adopt(openWithHint(options), options, log);
  }

  /** As `open`, for a file that is open already; it belongs to the plugin, or is closed, from now on. */
  static async adopt(file: OpenFile, options: FileOptions, log: Logger): Promise<FilePlugin> {
    try {
      if (options.hasLock) {
        await lockImage(file.fd, options.path, options.isReadOnly);
      }
      if (options.cache === 'none') {
        await assertEvictable(file, options.path);
      }
      await adviseReadAhead(file.fd, options);
      if (options.createSize !== undefined && !file.isNew && options.createSize !== file.size) {
        log.info({ size: file.size }, 'The file exists and keeps its size; --create is not needed');
      }
      const directFd = options.cache === 'none' ? await openDirect(file.fd, options.isReadOnly) : undefined;
      const traits = {
        directFd,
        isOnExt4: await isOnExt4(file),
        tellsResidency: await tellsResidency(file),
        tellsChanges: await tellsChanges(file),
      };
      return new FilePlugin(file, traits, options, log);
    } catch (error) {
      if (file.isNew) {
        rmSync(options.path, { force: true });
      }
      await promisify(closeDescriptor)(file.fd);
      throw error;
    }
  }

  open(): Handle {
    return this.#handles.open();
  }

  get lossCount(): number {
    return this.#durability.lossCount;
  }

  async residentBytes(offset: number, length: number): Promise<number> {
    if (this.#isClosing) {
      throw new Error('The file is being closed');
    }
    const counting = residentBytes(this.#shared.fd, offset, length);
    this.#counting.add(counting);
    try {
      return await counting;
    } finally {
      this.#counting.delete(counting);
    }
  }

  /** Closes the file, and removes it again if it was created. */
  async abandon(): Promise<void> {
    if (this.#createdPath !== undefined) {
      rmSync(this.#createdPath, { force: true });
    }
    await this.close();
  }

  async close(): Promise<void> {
    this.#isClosing = true;
    await Promise.allSettled(this.#counting);
    // Nobody waits for what slow writes have begun, and a descriptor that is closed may soon be another file's.
    await this.#shared.largeFolios?.settled();
    await this.#shared.directReadAhead?.settled();
    try {
      await this.settle();
    } finally {
      await this.#closeFile();
      this.#threads?.close();
    }
    // close(2) may have met a loss that nothing before had.
    this.#durability.assertNothingLost();
  }

  /** Flushes and leaves nothing in the page cache; rejects when acknowledged data was lost, ever. */
  async settle(): Promise<void> {
    try {
      await this.#durability.flushIfChanged();
    } finally {
      await this.#shared.eviction?.drain();
    }
    // The drain may have met a loss that the flush had not.
    this.#durability.assertNothingLost();
  }

  /** close(2) writes back what is left on NFS and FUSE, and tells an error once, like fdatasync. */
  async #closeFile(): Promise<void> {
    const { fd, size } = this.#shared;
    if (this.#directFd !== undefined) {
      // Nothing of it is in the page cache: its errors were told to the readers and writers.
      await promisify(closeDescriptor)(this.#directFd).catch(() => undefined);
    }
    try {
      await promisify(closeDescriptor)(fd);
    } catch (error) {
      const { errno } = error as NodeJS.ErrnoException;
      this.#durability.latch(new BackendError(errnoOf(errno ?? -EIO), 'close', 0, size));
    }
  }
}

/** Beside this module, built or as source. */
const ATTACHED_FILE = new URL(`./attached-file${extname(import.meta.url)}`, import.meta.url).href;

/** As openFile, with the option that would help named in the error. */
function openWithHint({ path, isReadOnly, createSize }: FileOptions): OpenFile {
  try {
    return openFile(path, isReadOnly, createSize);
  } catch (error) {
    if (error instanceof FileRefusedError) {
      const isPermission = error.code === 'EACCES' || error.code === 'EPERM' || error.code === 'EROFS';
      const hint =
        error.code === 'ENOENT' && createSize === undefined
          ? ' (--create SIZE makes one)'
          : isPermission && !isReadOnly
            ? ' (--read-only needs no write permission)'
            : '';
      throw new FileRefusedError(`${error.message}${hint}`, error.code);
    }
    throw error;
  }
}

/** What a file of `size` bytes will say of itself once it is open. */
export function describeFile(size: number, options: Pick<FileOptions, 'isReadOnly' | 'cache'>): PluginInfo {
  return {
    size,
    isReadOnly: options.isReadOnly,
    isRotational: false,
    canFlush: true,
    canFua: true,
    canTrim: true,
    canZero: true,
    canFastZero: true,
    canCache: options.cache === 'default',
    // One descriptor and one page cache serve all connections, and a FLUSH covers the whole file.
    canMultiConn: true,
    blockSize: { minimum: 1, preferred: 4096 },
    metaContexts: [ALLOCATION_CONTEXT, ...(native.linux ? [RESIDENT_CONTEXT] : [])],
  };
}

/** Refuses `--cache none` where pages cannot leave the cache, or the kernel lacks the calls for it. */
async function assertEvictable({ fd, isBlockDevice }: OpenFile, path: string): Promise<void> {
  if (!native.linux) {
    throw new FileRefusedError('--cache none needs Linux; serve with --cache default');
  }
  if (!isBlockDevice) {
    await assertOnDisk(path);
  }
  // No page, no write: only the kernel's word on whether it knows the call for this file.
  const probe = await call((done) => {
    native.sync_file_range(fd, 0, 1, SYNC_FILE_RANGE_WRITE, done);
  });
  if (probe < 0) {
    const reason = errnoName(errnoOf(probe));
    throw new FileRefusedError(
      `--cache none cannot work for "${path}": sync_file_range fails with ${reason}; serve with --cache default`,
    );
  }
}

/** Refuses `--cache none` for what is on a file system in memory. */
export async function assertOnDisk(path: string): Promise<void> {
  const { type } = await statfs(path);
  const memoryFileSystem = MEMORY_FILE_SYSTEMS.get(type);
  if (memoryFileSystem !== undefined) {
    throw new FileRefusedError(
      `--cache none cannot work for "${path}": it is on ${memoryFileSystem}, which has no disk behind its cache`,
    );
  }
}

async function adviseReadAhead(fd: number, { cache, fadvise, path }: FileOptions): Promise<void> {
  // With --cache none the read-ahead is ours (read-ahead.ts), and the kernel's is switched off.
  const advice = ADVICE[cache === 'none' ? 'random' : fadvise];
  if (advice === POSIX_FADV_NORMAL) {
    return;
  }
  const result = await call((done) => {
    native.posix_fadvise(fd, 0, 0, advice, done);
  });
  if (result < 0) {
    throw new FileRefusedError(`--fadvise ${fadvise} fails for "${path}": ${errnoName(errnoOf(result))}`);
  }
}
