/** One run of one setting: the writes of a workload through the file plugin, made durable, and what it cost. */
import { setTimeout as sleep } from 'node:timers/promises';
import { WINDOW_BYTES_DEFAULT, WINDOW_COUNT_DEFAULT } from '../../limits.ts';
import type { Logger } from '../../log.ts';
import { FilePlugin } from '../../plugins/file/file-plugin.ts';
import { type DriveOptions, driveWrites } from './drive.ts';
import type { ScratchFile } from './scratch-file.ts';
import type { Setting } from './setting.ts';
import type { Workload } from './workload.ts';

/** Milliseconds between two looks at the page cache: some 100 in a run of 1G on a fast disk. */
const SAMPLE_MS = 4;

/** Errors come back as rejections of the requests; there is nobody to log to. */
const SILENT: Logger = { debug: ignore, info: ignore, warn: ignore, error: ignore };

export interface Run {
  /** From the first write to the end of the FLUSH behind the last one. */
  readonly seconds: number;
  /** Highest number that was seen, from the first write until the file was closed. */
  readonly peakResidentBytes: number;
  /** After the file was closed. */
  readonly leftResidentBytes: number;
}

export async function measure(
  scratch: ScratchFile,
  setting: Setting,
  workload: Workload,
  options: DriveOptions,
): Promise<Run> {
  await scratch.evict();
  const plugin = await openScratch(scratch, setting);
  const sampler = new PeakSampler(scratch);
  let seconds: number;
  try {
    const handle = plugin.open();
    try {
      const begin = performance.now();
      await driveWrites(handle, workload, options);
      await handle.flush();
      seconds = (performance.now() - begin) / 1000;
    } finally {
      await handle.close();
    }
  } finally {
    await plugin.close().finally(() => sampler.stop());
  }
  return {
    seconds,
    peakResidentBytes: sampler.peak,
    leftResidentBytes: await scratch.residentBytes(),
  };
}

/** Opens the scratch file as the server would; what it refuses is said of the directory. */
export async function openScratch(scratch: ScratchFile, setting: Setting): Promise<FilePlugin> {
  return FilePlugin.open(
    {
      path: scratch.path,
      isReadOnly: false,
      cache: setting.cache,
      windowCount: setting.cache === 'none' ? setting.windowCount : WINDOW_COUNT_DEFAULT,
      windowBytes: setting.cache === 'none' ? setting.windowBytes : WINDOW_BYTES_DEFAULT,
      // Nobody else can open it.
      hasLock: false,
      createSize: undefined,
      fadvise: 'normal',
      keepsResident: false,
      // A loss shows in the flush.
      onLoss: ignore,
    },
    SILENT,
  );
}

/** The highest residency of the scratch file from now until it is stopped. */
class PeakSampler {
  peak = 0;
  readonly #scratch: ScratchFile;
  readonly #stopped = new AbortController();
  readonly #running: Promise<void>;

  constructor(scratch: ScratchFile) {
    this.#scratch = scratch;
    this.#running = this.#run();
    // It is awaited only in `stop`, and a rejection before that is no surprise to anyone.
    this.#running.catch(ignore);
  }

  async stop(): Promise<void> {
    this.#stopped.abort();
    await this.#running;
  }

  async #run(): Promise<void> {
    while (!this.#stopped.signal.aborted) {
      this.peak = Math.max(this.peak, await this.#scratch.residentBytes());
      await sleep(SAMPLE_MS, undefined, { signal: this.#stopped.signal }).catch(ignore);
    }
  }
}

function ignore(): void {
  // See the callers.
}
