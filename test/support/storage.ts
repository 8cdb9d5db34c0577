import { mkdir, open } from 'node:fs/promises';
import { Cleanup } from './cleanup.ts';
import { attempt, privileged, run } from './command.ts';
import { eventually } from './polling.ts';
import { type TemporaryDirectory, temporaryDirectory } from './temporary-directory.ts';

export const MiB = 2 ** 20;
export const GiB = 2 ** 30;
export const TiB = 2 ** 40;

/** A loop device on a file, owned by the user who runs the tests. */
export class LoopDevice implements AsyncDisposable {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run(privileged('losetup', '--detach', this.path));
    // Detaching is put off for as long as somebody has the device open.
    await eventually(`${this.path} is detached`, async () => {
      const { code } = await attempt(['losetup', this.path]);
      return code === 0 ? undefined : true;
    });
  }
}

export async function attachLoop(file: string, ...options: readonly string[]): Promise<LoopDevice> {
  const path = (await run(privileged('losetup', '--find', '--show', ...options, file))).trim();
  const device = new LoopDevice(path);
  if (process.getuid?.() !== 0) await run(privileged('chown', String(process.getuid?.()), path));
  return device;
}

/** A mounted file system; `path` is its root directory. */
export class Mount implements AsyncDisposable {
  readonly path: string;

  constructor(path: string) {
    this.path = path;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    // Somebody may look at the file system for a moment: udev, for example.
    await eventually(
      `${this.path} is unmounted`,
      async () => {
        const { code } = await attempt(privileged('umount', this.path));
        return code === 0 ? true : undefined;
      },
      20_000,
    );
  }
}

export async function mountDevice(
  device: string,
  mountPoint: string,
  options: readonly string[] = [],
): Promise<Mount> {
  await mkdir(mountPoint, { recursive: true });
  await run(privileged('mount', ...options, device, mountPoint));
  const mount = new Mount(mountPoint);
  if (process.getuid?.() !== 0) await run(privileged('chown', String(process.getuid?.()), mountPoint));
  return mount;
}

export type FileSystemType = 'ext4' | 'xfs' | 'btrfs';

const MAKE_FILE_SYSTEM: Readonly<Record<FileSystemType, readonly [string, ...string[]]>> = {
  ext4: ['mkfs.ext4', '-q', '-F'],
  xfs: ['mkfs.xfs', '-q', '-f'],
  btrfs: ['mkfs.btrfs', '-q', '-f'],
};

export async function makeFileSystem(type: FileSystemType, target: string): Promise<void> {
  await run([...MAKE_FILE_SYSTEM[type], target]);
}

export class ScratchFileSystem implements AsyncDisposable {
  readonly path: string;
  /** The loop device below. */
  readonly device: string;
  readonly #cleanup: Cleanup;

  constructor(path: string, device: string, cleanup: Cleanup) {
    this.path = path;
    this.device = device;
    this.#cleanup = cleanup;
  }

  file(name: string): string {
    return `${this.path}/${name}`;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#cleanup[Symbol.asyncDispose]();
  }
}

/** A fresh file system of the given type on a sparse file, mounted through a loop device (losetup's options). */
export async function scratchFileSystem(
  type: FileSystemType,
  size = GiB,
  ...loopOptions: readonly string[]
): Promise<ScratchFileSystem> {
  const cleanup = new Cleanup();
  try {
    const directory: TemporaryDirectory = cleanup.use(await temporaryDirectory());
    const backing = directory.file('file-system.img');
    await using file = await open(backing, 'w');
    await file.truncate(size);
    await makeFileSystem(type, backing);
    const device = cleanup.use(await attachLoop(backing, ...loopOptions));
    const mount = cleanup.use(await mountDevice(device.path, directory.file('mount')));
    return new ScratchFileSystem(mount.path, device.path, cleanup);
  } catch (error) {
    await cleanup[Symbol.asyncDispose]();
    throw error;
  }
}
