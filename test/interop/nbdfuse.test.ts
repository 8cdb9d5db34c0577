import { spawn } from 'node:child_process';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { Cleanup } from '../support/cleanup.ts';
import { attempt, childEnvironment, privileged, run } from '../support/command.ts';
import { createImage, noise } from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { CACHE_MODES, startServer } from '../support/server.ts';
import { attachLoop, MiB, makeFileSystem, mountDevice } from '../support/storage.ts';
import { type TemporaryDirectory, temporaryDirectory } from '../support/temporary-directory.ts';

/** The export as a file in a FUSE file system; disposing unmounts it and waits for nbdfuse to end. */
class FuseMount implements AsyncDisposable {
  readonly file: string;
  readonly #mountPoint: string;
  readonly #end: Promise<number | null>;

  constructor(mountPoint: string, end: Promise<number | null>) {
    this.#mountPoint = mountPoint;
    this.file = `${mountPoint}/nbd`;
    this.#end = end;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await run(privileged('fusermount3', '-u', this.#mountPoint));
    expect(await this.#end, 'exit code of nbdfuse').toBe(0);
  }
}

async function fuseMount(uri: string, mountPoint: string): Promise<FuseMount> {
  await mkdir(mountPoint, { recursive: true });
  const [program, ...args] = privileged('nbdfuse', '--connections', '4', mountPoint, uri);
  const child = spawn(program, args, { env: childEnvironment(), stdio: ['ignore', 'inherit', 'inherit'] });
  const end = new Promise<number | null>((resolve, reject) => {
    child.once('error', reject);
    child.once('exit', resolve);
  });
  const mount = new FuseMount(mountPoint, end);
  await eventually('nbdfuse shows the export', async () => {
    if (child.exitCode !== null) throw new Error(`nbdfuse ended with ${child.exitCode}`);
    const { code } = await attempt(privileged('stat', mount.file));
    return code === 0 ? true : undefined;
  });
  return mount;
}

const FILES = Array.from({ length: 40 }, (_, index) => ({
  name: `file-${index}`,
  content: noise(1 + index * 50_021, index),
}));

async function withMounted(
  uri: string,
  directory: TemporaryDirectory,
  use: (root: string) => Promise<void>,
  format = false,
): Promise<void> {
  await using cleanup = new Cleanup();
  const fuse = cleanup.use(await fuseMount(uri, directory.file('fuse')));
  if (format) await makeFileSystem('ext4', fuse.file);
  {
    await using inner = new Cleanup();
    const loop = inner.use(await attachLoop(fuse.file));
    const mount = inner.use(await mountDevice(loop.path, directory.file('mount')));
    await use(mount.path);
  }
  await run(['e2fsck', '-f', '-n', fuse.file]);
}

describe.each(CACHE_MODES)('with --cache %s', (cache) => {
  test('a file system made through nbdfuse and a loop device survives a restart of the server', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, 256 * MiB);

    {
      await using server = await startServer(['file', image, '--cache', cache]);
      await withMounted(
        server.uri,
        directory,
        async (root) => {
          for (const { name, content } of FILES) await writeFile(`${root}/${name}`, content);
          await run(['sync', '--file-system', root]);
          await run(privileged('fstrim', root));
        },
        true,
      );
    }
    await run(['e2fsck', '-f', '-n', image]);

    await using server = await startServer(['file', image, '--cache', cache]);
    await withMounted(server.uri, directory, async (root) => {
      for (const { name, content } of FILES) {
        const found = await readFile(`${root}/${name}`);
        expect(found.equals(content), name).toBe(true);
      }
    });
    expect((await stat(image)).size).toBe(256 * MiB);
  });
});
