import { spawn } from 'node:child_process';
import { stat } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { attempt, childEnvironment, run } from '../support/command.ts';
import { createImage } from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { expectRefusal, startServer } from '../support/server.ts';
import { attachLoop, MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const REFUSAL = { lines: 3 } as const;
const MESSAGE = /lock|in use/i;

/** A qemu-nbd that holds the image until it is disposed. */
class QemuNbd implements AsyncDisposable {
  readonly #kill: () => void;
  readonly #end: Promise<void>;

  private constructor(kill: () => void, end: Promise<void>) {
    this.#kill = kill;
    this.#end = end;
  }

  static async start(image: string, socketPath: string, ...options: readonly string[]): Promise<QemuNbd> {
    const child = spawn('qemu-nbd', ['--persistent', '-f', 'raw', '-k', socketPath, ...options, image], {
      env: childEnvironment(),
      stdio: ['ignore', 'inherit', 'inherit'],
    });
    const end = new Promise<void>((resolve) => {
      child.once('exit', () => {
        resolve();
      });
    });
    await eventually('qemu-nbd listens', async () => {
      if (child.exitCode !== null) throw new Error(`qemu-nbd ended with ${child.exitCode}`);
      const { code } = await attempt(['nbdinfo', '--size', `nbd+unix:///?socket=${socketPath}`]);
      return code === 0 ? true : undefined;
    });
    return new QemuNbd(() => child.kill('SIGTERM'), end);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#kill();
    await this.#end;
  }
}

describe('between two servers', () => {
  test('a second writer is refused, and served again when the first has gone', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    {
      await using server = await startServer(['file', image]);
      const message = await expectRefusal(['file', image, '-U', directory.file('second.sock')], REFUSAL);
      expect(message).toContain(image);
      expect(message).toMatch(MESSAGE);
      await expect(stat(directory.file('second.sock'))).rejects.toThrow('ENOENT');
      expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
    }
    await using again = await startServer(['file', image]);
    expect(await run(['nbdinfo', '--size', again.uri])).toBe(`${MiB}\n`);
  });

  test('a reader and a writer refuse each other', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    {
      await using _writer = await startServer(['file', image]);
      const message = await expectRefusal(
        ['file', image, '--read-only', '-U', directory.file('x.sock')],
        REFUSAL,
      );
      expect(message).toMatch(MESSAGE);
    }
    await using _reader = await startServer(['file', image, '--read-only']);
    expect(await expectRefusal(['file', image, '-U', directory.file('x.sock')], REFUSAL)).toMatch(MESSAGE);
  });

  test('readers share an image', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using one = await startServer(['file', image, '--read-only']);
    await using other = await startServer(['file', image, '--read-only', '--cache', 'none']);
    for (const { uri } of [one, other]) expect(await run(['nbdinfo', '--size', uri])).toBe(`${MiB}\n`);
  });

  test('--no-lock admits a second writer', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using _one = await startServer(['file', image]);
    await using other = await startServer(['file', image, '--no-lock']);
    expect(await run(['nbdinfo', '--size', other.uri])).toBe(`${MiB}\n`);
  });

  test('a server that was killed leaves no lock', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using killed = await startServer(['file', image]);
    killed.signal('SIGKILL');
    expect(await killed.ended()).toEqual({ code: null, signal: 'SIGKILL' });
    await using again = await startServer(['file', image]);
    expect(await run(['nbdinfo', '--size', again.uri])).toBe(`${MiB}\n`);
  });

  test('a block device has one writer as well', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using loop = await attachLoop(image);
    await using _server = await startServer(['file', loop.path]);
    const message = await expectRefusal(['file', loop.path, '-U', directory.file('x.sock')], REFUSAL);
    expect(message).toContain(loop.path);
  });
});

describe('between QEMU and a server', () => {
  test('an image that qemu-nbd writes is refused', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using _qemu = await QemuNbd.start(image, directory.file('qemu.sock'));
    const options = ['-U', directory.file('x.sock')];
    expect(await expectRefusal(['file', image, ...options], REFUSAL)).toMatch(MESSAGE);
    expect(await expectRefusal(['file', image, '--read-only', ...options], REFUSAL)).toMatch(MESSAGE);
  });

  test('an image that qemu-nbd only reads may be read, not written', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using _qemu = await QemuNbd.start(image, directory.file('qemu.sock'), '--read-only');
    expect(await expectRefusal(['file', image, '-U', directory.file('x.sock')], REFUSAL)).toMatch(MESSAGE);
    await using reader = await startServer(['file', image, '--read-only']);
    expect(await run(['nbdinfo', '--size', reader.uri])).toBe(`${MiB}\n`);
  });

  test('--no-lock serves an image that qemu-nbd writes', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using _qemu = await QemuNbd.start(image, directory.file('qemu.sock'));
    await using server = await startServer(['file', image, '--no-lock']);
    expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
  });

  test('an image that a server writes is refused by qemu-io, for writing and for reading', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using _server = await startServer(['file', image]);
    for (const mode of [[], ['-r']]) {
      const { code, stderr } = await attempt(['qemu-io', '-f', 'raw', ...mode, '-c', 'read 0 4k', image]);
      expect(code, stderr).not.toBe(0);
      expect(stderr).toMatch(/lock/);
    }
  });

  test('an image that a server reads may be read by qemu-io, not written', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using _server = await startServer(['file', image, '--read-only']);
    await run(['qemu-io', '-f', 'raw', '-r', '-c', 'read 0 4k', image]);
    const { code, stderr } = await attempt(['qemu-io', '-f', 'raw', '-c', 'write 0 4k', image]);
    expect(code, stderr).not.toBe(0);
    expect(stderr).toMatch(/lock/);
  });

  test('with --no-lock a server leaves the image to qemu-io as well', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using _server = await startServer(['file', image, '--no-lock']);
    await run(['qemu-io', '-f', 'raw', '-c', 'write 0 4k', image]);
  });
});
