/** What the handles of one file share, and the plugin owns; in each thread of several that serve it. */
import type { Logger } from '../../log.ts';
import { type DirectFile, native } from '../../native/binding.ts';
import type { WindowCounter } from '../window-counter.ts';
import { CacheEviction } from './cache-eviction.ts';
import { DirectReadAhead } from './direct-read-ahead.ts';
import { DirectWrites } from './direct-writes.ts';
import type { FileDurability } from './durability.ts';
import { ExtentFinder } from './extents.ts';
import { FileBounds } from './file-bounds.ts';
import type { ChunkMarks } from './kept-chunks.ts';
import { LargeFolios } from './large-folios.ts';
import { WriteBack } from './write-back.ts';
import { Zeroing } from './zeroing.ts';

/** How clients will read a file, as the operator says (`--fadvise`). */
export type ReadAheadAdvice = 'normal' | 'random' | 'sequential';

/** What an open file is and how it is to be served: plain data, the same in every thread. */
export interface FileFacts {
  readonly fd: number;
  /** Opened with O_DIRECT; undefined with `--cache default`, and where the file takes none. */
  readonly directFd: number | undefined;
  /** Bytes. */
  readonly size: number;
  readonly isBlockDevice: boolean;
  /** A file on ext4, to which large-folios.ts applies. */
  readonly isOnExt4: boolean;
  /** The kernel tells us what of the file is in the page cache (open-file.ts, tellsResidency). */
  readonly tellsResidency: boolean;
  /** The file's times and size tell of every change (open-file.ts, tellsChanges). */
  readonly tellsChanges: boolean;
  readonly fadvise: ReadAheadAdvice;
  /** Undefined with `--cache default`. */
  readonly cacheNone: CacheNoneFacts | undefined;
}

/** Bounds of the whole file: threads divide them. */
export interface CacheNoneFacts {
  readonly windowCount: number;
  /** Bytes of merged ranges that fill a window. */
  readonly windowBytes: number;
  /** Spare what was in the page cache before. */
  readonly keepsResident: boolean;
}

export interface SharedFile {
  readonly fd: number;
  /** Bytes. */
  readonly size: number;
  readonly bounds: FileBounds;
  readonly durability: FileDurability;
  readonly zeroing: Zeroing;
  readonly extents: ExtentFinder;
  /** Undefined with `--cache default`, both. */
  readonly eviction: CacheEviction | undefined;
  readonly writeBack: WriteBack | undefined;
  /** Undefined with `--cache default`, and where the file takes no O_DIRECT. */
  readonly directFile: DirectFile | undefined;
  /** As `directFile`, and undefined in one thread of several, both; `directReadAhead` also where a change
   *  by somebody else does not show. */
  readonly directReadAhead: DirectReadAhead | undefined;
  readonly directWrites: DirectWrites | undefined;
  /** Undefined with `--cache none`, which lets no folio grow old, and where they are in nobody's way. */
  readonly largeFolios: LargeFolios | undefined;
  /** Reads are sent from the page cache; false with `--cache none`, where hardly anything is in it. */
  readonly canSendPages: boolean;
  readonly fadvise: ReadAheadAdvice;
  /** Called after a successful FLUSH, in one thread of several with `--cache none`. */
  readonly sweepOthers?: (() => void) | undefined;
}

/** What one thread brings to a file. */
export interface FileSurroundings {
  readonly durability: FileDurability;
  readonly log: Logger;
  /** Default: 1. */
  readonly threadCount?: number;
  /** With `keepsResident` in one thread of several. */
  readonly chunkMarks?: ChunkMarks | undefined;
  readonly sweepOthers?: (() => void) | undefined;
  readonly windowCounter?: WindowCounter | undefined;
  /** See Durability; undefined in one thread of several. */
  readonly changeCount?: (() => number) | undefined;
}

export function createSharedFile(facts: FileFacts, surroundings: FileSurroundings): SharedFile {
  const { fd, directFd, size, isBlockDevice, fadvise, cacheNone } = facts;
  const {
    durability,
    log,
    threadCount = 1,
    chunkMarks,
    sweepOthers,
    windowCounter,
    changeCount,
  } = surroundings;
  const bounds = new FileBounds(fd, size, !isBlockDevice);
  const directFile = directFd === undefined ? undefined : new native.DirectFile(fd, directFd);
  const writeBack = cacheNone && new WriteBack({ fd, ...cacheNone, durability, threadCount, windowCounter });
  const eviction =
    writeBack &&
    new CacheEviction({
      fd,
      size,
      drainWindows: () => writeBack.drain(),
      drained: () => {
        directReadAhead?.forget();
        directFile?.release();
      },
      keepsResident: cacheNone.keepsResident,
      chunkMarks,
      threadCount,
      log,
    });
  const directReadAhead: DirectReadAhead | undefined =
    directFile && eviction && changeCount && facts.tellsChanges && fadvise !== 'random'
      ? new DirectReadAhead({ file: directFile, size, changeCount, eviction })
      : undefined;
  return {
    fd,
    size,
    bounds,
    durability,
    zeroing: new Zeroing(fd, isBlockDevice),
    extents: new ExtentFinder(fd, size, !isBlockDevice, bounds),
    eviction,
    writeBack,
    directFile,
    directReadAhead,
    directWrites:
      directFile && threadCount === 1
        ? new DirectWrites(
            directFile,
            bounds.canShrink,
            (offset, length) => native.cached_pages(fd, offset, length) !== 0,
          )
        : undefined,
    largeFolios: facts.isOnExt4 && cacheNone === undefined ? new LargeFolios(fd, durability) : undefined,
    canSendPages: facts.tellsResidency && cacheNone === undefined,
    fadvise,
    sweepOthers: writeBack && sweepOthers,
  };
}
