/**
 * The overlay as all handles share it: a file plugin that holds the blocks, and the map of which blocks it holds.
 *
 * FLUSH of a kept overlay, so that the map on disk never speaks of a block that is not there:
 *
 *   1. copy the pages of the map that have changed     only blocks whose writes have ended are in it
 *   2. fdatasync                                       those blocks are on stable storage
 *   3. write the copies, fdatasync                     now the map may say so
 *   4. answer
 *
 * Killed anywhere before the end of 3, the file is the overlay of the FLUSH before, and perhaps a part of this one:
 * whole blocks each, all of them written before this FLUSH. A FUA is a write and a FLUSH.
 */
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { WINDOW_BYTES_DEFAULT, WINDOW_COUNT_DEFAULT } from '../../limits.ts';
import { type CacheMode, FilePlugin } from '../../plugins/file/file-plugin.ts';
import { ImageLockedError } from '../../plugins/file/image-lock.ts';
import type { Handle, Plugin } from '../../plugins/plugin.ts';
import type { FilterContext } from '../filter.ts';
import { FilterError } from '../filter-error.ts';
import { everyStep } from '../settle.ts';
import { BlockLocks } from './block-locks.ts';
import { type BitmapPage, BlockMap } from './block-map.ts';
import { fingerprintOf } from './fingerprint.ts';
import { BITMAP_OFFSET, type Geometry, geometryOf, PAGE_BYTES } from './layout.ts';
import { createOverlay, isOverlay, temporaryFolder } from './overlay-file.ts';

export interface OverlayOptions {
  /** Absolute; undefined: a private file that is gone with the server. */
  readonly path: string | undefined;
  readonly cache: CacheMode;
}

export class Overlay {
  readonly geometry: Geometry;
  readonly map = new BlockMap();
  readonly locks = new BlockLocks();
  readonly #file: Plugin;
  readonly #handle: Handle;
  /** The map is kept in the file. */
  readonly #isKept: boolean;
  /** To be removed when it is not served after all. */
  readonly #createdPath: string | undefined;
  /** The flush under way, or the last one. */
  #latest: Promise<void> = Promise.resolve();
  /** The flush that begins when that has ended. */
  #next: Promise<void> | undefined;

  private constructor(
    geometry: Geometry,
    file: Plugin,
    handle: Handle,
    isKept: boolean,
    createdPath: string | undefined,
  ) {
    this.geometry = geometry;
    this.#file = file;
    this.#handle = handle;
    this.#isKept = isKept;
    this.#createdPath = createdPath;
  }

  /** Makes or opens the overlay of `base`. Rejects with what the user can mend, and has let go of it then. */
  static async open(base: Plugin, options: OverlayOptions, context: FilterContext): Promise<Overlay> {
    const geometry = geometryOf(base.info.size);
    return options.path === undefined
      ? openPrivate(geometry, options, context)
      : openKept(base, geometry, options.path, options, context);
  }

  /**
   * The overlay in a file that is open, and this one's from now on, also when it rejects. `keptPath`: where it is
   * kept, for errors; undefined for a private one. `isCreated`: it is new, and goes when it is abandoned.
   */
  static async start(
    geometry: Geometry,
    file: Plugin,
    keptPath: string | undefined,
    isCreated: boolean,
  ): Promise<Overlay> {
    try {
      const handle = await file.open();
      const createdPath = isCreated ? keptPath : undefined;
      const overlay = new Overlay(geometry, file, handle, keptPath !== undefined, createdPath);
      if (keptPath !== undefined) {
        await overlay.#load(keptPath);
      }
      return overlay;
    } catch (error) {
      await file.close();
      throw error;
    }
  }

  /** CACHE leaves nothing in the page cache that should not be there. */
  get canCache(): boolean {
    return this.#file.info.canCache;
  }

  /** A handle for the blocks: block n is at `geometry.dataOffset` and n times the block size behind it. */
  async openHandle(): Promise<Handle> {
    return this.#file.open();
  }

  /**
   * Everything that was written before is durable when it is done. One at a time: two of them could write one page
   * of the map, the older copy last. One that comes while another is under way waits for the next, with all others
   * that do: the one under way may have begun before the latest write ended.
   */
  flush(): Promise<void> {
    this.#next ??= this.#latest
      .catch(() => {})
      .then(() => {
        this.#next = undefined;
        this.#latest = this.#runFlush();
        return this.#latest;
      });
    return this.#next;
  }

  async close(): Promise<void> {
    await everyStep(
      () => this.#finish(),
      () => this.#handle.close(),
      () => this.#file.close(),
    );
  }

  /** As `close`, but for what handles in use need. */
  async settle(): Promise<void> {
    if (this.#isKept) {
      await this.flush();
    }
  }

  async abandon(): Promise<void> {
    if (this.#createdPath !== undefined) {
      await rm(this.#createdPath, { force: true });
    }
    await this.close();
  }

  async #finish(): Promise<void> {
    if (!this.#isKept) {
      // Else the flush of its last close would write everything that is thrown away.
      await this.#handle.trim(0, this.geometry.fileBytes, false);
    } else if (this.map.hasChanges) {
      await this.flush();
    }
  }

  async #runFlush(): Promise<void> {
    const pages = this.#isKept ? this.map.takeChanges() : [];
    try {
      await this.#handle.flush();
      if (pages.length > 0) {
        await this.#writePages(pages);
        await this.#handle.flush();
      }
    } catch (error) {
      this.map.giveBack(pages);
      throw error;
    }
  }

  async #writePages(pages: readonly BitmapPage[]): Promise<void> {
    for (const { index, bytes } of pages) {
      await this.#handle.write(bytes, 0, bytes.length, BITMAP_OFFSET + index * PAGE_BYTES, false);
    }
  }

  /** Reads those pages of the map that are not holes of the file. */
  async #load(path: string): Promise<void> {
    const { bitmapBytes, blockCount } = this.geometry;
    let position = 0;
    while (position < bitmapBytes) {
      const [extent] = await this.#handle.extents(BITMAP_OFFSET + position, bitmapBytes - position, true);
      // Blocks of a file system may be smaller than a page: a hole counts for the whole pages in it.
      const holePages = extent?.isZero === true ? Math.floor(extent.length / PAGE_BYTES) : 0;
      if (holePages === 0) {
        await this.#loadPage(position / PAGE_BYTES);
      }
      position += Math.max(holePages, 1) * PAGE_BYTES;
    }
    const bitCount = bitmapBytes * 8;
    if (
      blockCount < bitCount &&
      (this.map.has(blockCount) || this.map.runEnd(blockCount, bitCount) < bitCount)
    ) {
      throw new FilterError(
        `Filter "cow": "${path}" is damaged: its map has blocks past the end of the export`,
      );
    }
  }

  async #loadPage(index: number): Promise<void> {
    const bytes = new Uint8Array(PAGE_BYTES);
    await this.#handle.read(bytes, 0, PAGE_BYTES, BITMAP_OFFSET + index * PAGE_BYTES);
    this.map.load({ index, bytes });
  }
}

async function openPrivate(
  geometry: Geometry,
  options: OverlayOptions,
  context: FilterContext,
): Promise<Overlay> {
  const folder = await temporaryFolder();
  try {
    const file = await openFile(join(folder, 'overlay'), geometry.fileBytes, options, false, context);
    return await Overlay.start(geometry, file, undefined, false);
  } finally {
    await rm(folder, { recursive: true, force: true });
  }
}

async function openKept(
  base: Plugin,
  geometry: Geometry,
  path: string,
  options: OverlayOptions,
  context: FilterContext,
): Promise<Overlay> {
  const fingerprint = await fingerprintOf(base);
  const isCreated = !(await isOverlay(path, geometry, fingerprint));
  if (isCreated && context.isReadOnly) {
    throw new FilterError(`Filter "cow": there is no overlay "${path}", and --read-only makes none`);
  }
  if (isCreated) {
    await createOverlay(path, geometry, fingerprint);
  }
  try {
    const file = await openFile(path, undefined, options, context.isReadOnly, context);
    return await Overlay.start(geometry, file, path, isCreated);
  } catch (error) {
    // Whoever holds the lock was faster to open what is new here, and has it now.
    if (isCreated && !(error instanceof ImageLockedError)) {
      await rm(path, { force: true });
    }
    throw error;
  }
}

function openFile(
  path: string,
  createSize: number | undefined,
  { path: keptPath, cache }: OverlayOptions,
  isReadOnly: boolean,
  { log, onLoss }: FilterContext,
): Promise<FilePlugin> {
  return FilePlugin.open(
    {
      path,
      isReadOnly,
      cache,
      windowCount: WINDOW_COUNT_DEFAULT,
      windowBytes: WINDOW_BYTES_DEFAULT,
      keepsResident: false,
      // A private file has no name to be found by.
      hasLock: keptPath !== undefined,
      createSize,
      fadvise: 'normal',
      onLoss,
    },
    log,
  );
}
