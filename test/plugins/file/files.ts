/** Files for the tests of the file plugin: on a disk, in this process, gone afterwards. */
import { closeSync, openSync } from 'node:fs';
import { native } from '../../../src/native/binding.ts';
import { call } from '../../../src/native/call.ts';
import { POSIX_FADV_DONTNEED } from '../../../src/native/constants.ts';
import { type FileOptions, FilePlugin } from '../../../src/plugins/file/file-plugin.ts';
import { FakeLog } from '../../server/fake-log.ts';
import { Cleanup } from '../../support/cleanup.ts';
import { type TemporaryDirectory, temporaryDirectory } from '../../support/temporary-directory.ts';

export const KiB = 1024;
export const MiB = 1024 * KiB;
export const GiB = 1024 * MiB;

/** A folder on a disk, and descriptors that are closed before it is removed. */
export class Files implements AsyncDisposable {
  readonly log = new FakeLog();
  readonly #directory: TemporaryDirectory;
  readonly #cleanup: Cleanup;

  private constructor(directory: TemporaryDirectory, cleanup: Cleanup) {
    this.#directory = directory;
    this.#cleanup = cleanup;
  }

  static async create(): Promise<Files> {
    const cleanup = new Cleanup();
    return new Files(cleanup.use(await temporaryDirectory()), cleanup);
  }

  path(name = 'image'): string {
    return this.#directory.file(name);
  }

  /** Opens a file until the end of the scope. */
  open(flags: string, name = 'image'): number {
    const fd = openSync(this.path(name), flags);
    this.#cleanup.defer(async () => closeSync(fd));
    return fd;
  }

  /** Serves a file; the caller closes it. */
  plugin(options: Partial<FileOptions> = {}): Promise<FilePlugin> {
    const defaults: FileOptions = {
      path: this.path(),
      isReadOnly: false,
      cache: 'default',
      windowCount: 8,
      windowBytes: 1 * MiB,
      keepsResident: false,
      hasLock: false,
      createSize: undefined,
      fadvise: 'normal',
      onLoss: () => {},
    };
    return FilePlugin.open({ ...defaults, ...options }, this.log);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup[Symbol.asyncDispose]();
  }
}

/** Pages of a range in the page cache; the whole file unless told otherwise. */
export async function residentPages(fd: number, offset = 0, length = 0): Promise<number> {
  const [cached = Number.NaN] = await cacheCounts(fd, offset, length);
  return cached;
}

async function cacheCounts(fd: number, offset: number, length: number): Promise<Float64Array> {
  const counts = new Float64Array(5);
  const result = await call((done) => {
    native.cachestat(fd, offset, length, counts, done);
  });
  if (result !== 0) throw new Error(`cachestat answers ${result}`);
  return counts;
}

/** Pages that are resident or that the kernel's memory management has taken: unlike eviction, it leaves shadow entries. */
export async function keptPages(fd: number, offset: number, length: number): Promise<number> {
  const [cached = 0, , , evicted = 0] = await cacheCounts(fd, offset, length);
  return cached + evicted;
}

/** Writes everything back and evicts it. */
export async function evict(fd: number): Promise<void> {
  for (const start of [
    (done: (result: number) => void) => native.fdatasync(fd, done),
    (done: (result: number) => void) => native.posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED, done),
  ]) {
    const result = await call(start);
    if (result !== 0) throw new Error(`Eviction failed with ${result}`);
  }
}
