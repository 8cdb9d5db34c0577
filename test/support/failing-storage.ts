import { mkdir, open, rm } from 'node:fs/promises';
import { Cleanup } from './cleanup.ts';
import { attempt, privileged, run } from './command.ts';
import { attachLoop, type FileSystemType, MiB, Mount, makeFileSystem, mountDevice } from './storage.ts';
import { type TemporaryDirectory, temporaryDirectory } from './temporary-directory.ts';

const STORE_BYTES = 112 * MiB;
/** More than XFS needs at least, far more than the store can hold. */
const PROMISED_BYTES = 320 * MiB;

/**
 * A file system that believes in 320 MiB, on a loop device whose sparse backing file lies on a small file
 * system. When that is full, a write into the page cache still succeeds, and its write-back fails.
 */
export class OverpromisedFileSystem implements AsyncDisposable {
  readonly path: string;
  readonly #filler: string;
  readonly #cleanup: Cleanup;

  constructor(path: string, filler: string, cleanup: Cleanup) {
    this.path = path;
    this.#filler = filler;
    this.#cleanup = cleanup;
  }

  /** An image whose blocks the file system has allocated, and the store has not: nothing fails but the data. */
  async createImage(name: string, size: number): Promise<string> {
    const path = `${this.path}/${name}`;
    await run(['fallocate', '--length', String(size), path]);
    await run(['sync', '--file-system', path]);
    return path;
  }

  /** From now on there is no room for what is not in the store yet. */
  async fill(): Promise<void> {
    const { code } = await attempt(['dd', 'if=/dev/zero', `of=${this.#filler}`, 'bs=64K', 'status=none']);
    if (code === 0) throw new Error(`${this.#filler} did not fill its file system`);
  }

  /** The storage recovers. */
  async free(): Promise<void> {
    await rm(this.#filler, { force: true });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup[Symbol.asyncDispose]();
  }
}

export async function overpromisedFileSystem(type: FileSystemType): Promise<OverpromisedFileSystem> {
  const cleanup = new Cleanup();
  try {
    const directory: TemporaryDirectory = cleanup.use(await temporaryDirectory());
    const [store, filler] = [directory.file('store'), directory.file('store/filler')];
    await mkdir(store);
    await run(
      privileged('mount', '-t', 'tmpfs', '-o', `size=${STORE_BYTES},mode=0777`, 'nbd-serve-test', store),
    );
    cleanup.use(new Mount(store));
    const backing = `${store}/file-system.img`;
    await using file = await open(backing, 'w');
    await file.truncate(PROMISED_BYTES);
    if (type === 'ext4') {
      // A journal would be aborted when its own blocks find no room, and the file system be read-only for ever:
      // the case of storage that recovers needs one that goes on.
      await run(['mkfs.ext4', '-q', '-F', '-O', '^has_journal', backing]);
    } else {
      await makeFileSystem(type, backing);
    }
    const device = cleanup.use(await attachLoop(backing));
    const mount = cleanup.use(await mountDevice(device.path, directory.file('mount')));
    const fileSystem = new OverpromisedFileSystem(mount.path, filler, cleanup);
    // First of all: XFS would retry its own writes for ever, and could not be unmounted.
    cleanup.defer(() => fileSystem.free());
    return fileSystem;
  } catch (error) {
    await cleanup[Symbol.asyncDispose]();
    throw error;
  }
}
