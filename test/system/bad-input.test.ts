import { chmod, chown, mkdir, readFile, stat, truncate, writeFile } from 'node:fs/promises';
import { createServer } from 'node:net';
import { describe, expect, test } from 'vitest';
import { Cleanup } from '../support/cleanup.ts';
import { attempt, privileged, run } from '../support/command.ts';
import { createFullImage, createImage } from '../support/image.ts';
import { PYTHON } from '../support/python.ts';
import { expectRefusal, startServer } from '../support/server.ts';
import { MiB, Mount } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

/** Root may open any file; without these capabilities it is a user like others, and still reads the program. */
const WITHOUT_OVERRIDE: readonly [string, ...string[]] = [
  'setpriv',
  '--bounding-set=-dac_override,-dac_read_search',
  '--inh-caps=-dac_override,-dac_read_search',
];

const IS_ROOT = process.getuid?.() === 0;
const NOBODY = 65_534;

/** Makes a file that this user cannot open, or not for writing. */
async function takeAway(path: string, mode: number): Promise<void> {
  if (IS_ROOT) await chown(path, NOBODY, NOBODY);
  await chmod(path, mode);
}

describe('the file', () => {
  test('a missing file is refused', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('missing.img');
    const message = await expectRefusal(['file', image, '-U', directory.file('s')]);
    expect(message).toContain(image);
    expect(message).toMatch(/no such file|not exist|ENOENT/i);
    await expect(stat(image)).rejects.toThrow('ENOENT');
  });

  test('an unreadable file is refused', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('secret.img');
    await createImage(image, MiB);
    await takeAway(image, IS_ROOT ? 0o600 : 0);
    const options = IS_ROOT ? { through: WITHOUT_OVERRIDE } : {};
    for (const mode of [[], ['--read-only']]) {
      const message = await expectRefusal(['file', image, ...mode, '-U', directory.file('s')], options);
      expect(message).toContain(image);
      expect(message).toMatch(/permission|EACCES/i);
    }
  });

  test('a file that may only be read is refused for writing and served for reading', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('read-only.img');
    await createImage(image, MiB);
    await takeAway(image, 0o444);
    const options = IS_ROOT ? { through: WITHOUT_OVERRIDE } : {};
    const message = await expectRefusal(['file', image, '-U', directory.file('s')], options);
    expect(message).toMatch(/permission|EACCES/i);
    await using server = await startServer(['file', image, '--read-only'], options);
    expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
  });

  test('a directory is refused', async () => {
    await using directory = await temporaryDirectory();
    const path = directory.file('folder');
    await mkdir(path);
    for (const mode of [[], ['--read-only']]) {
      const message = await expectRefusal(['file', path, ...mode, '-U', directory.file('s')]);
      expect(message).toContain(path);
      expect(message).toMatch(/directory/i);
    }
  });

  test('a FIFO is refused at once instead of waiting for its other end', async () => {
    await using directory = await temporaryDirectory();
    const path = directory.file('fifo');
    await run(['mkfifo', path]);
    for (const mode of [[], ['--read-only'], ['--create', '1M']]) {
      const message = await expectRefusal(['file', path, ...mode, '-U', directory.file('s')]);
      expect(message).toContain(path);
    }
  });

  test('a character device is refused', async () => {
    await using directory = await temporaryDirectory();
    expect(await expectRefusal(['file', '/dev/null', '-U', directory.file('s')])).toContain('/dev/null');
  });

  test('an empty path is refused', async () => {
    await using directory = await temporaryDirectory();
    await expectRefusal(['file', '', '-U', directory.file('s')]);
  });

  test('--cache none is refused on tmpfs, where nothing can be evicted', async () => {
    await using directory = await temporaryDirectory();
    const mountPoint = directory.file('tmpfs');
    await mkdir(mountPoint);
    await run(privileged('mount', '-t', 'tmpfs', '-o', 'size=4m,mode=777', 'tmpfs', mountPoint));
    await using _mount = new Mount(mountPoint);
    const image = `${mountPoint}/disk.img`;
    await createImage(image, MiB);
    const message = await expectRefusal(['file', image, '--cache', 'none', '-U', directory.file('s')]);
    expect(message).toContain(image);
    expect(message).toMatch(/tmpfs|evict|memory|cache/i);
    await using server = await startServer(['file', image]);
    expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
  });

  test('--create makes no file when something else is wrong', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('new.img');
    await expectRefusal(['file', image, '--create', '1M', '--windows', 'many', '-U', directory.file('s')]);
    await expect(stat(image)).rejects.toThrow('ENOENT');
  });

  test('--create in a missing directory is refused', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('missing/new.img');
    const message = await expectRefusal(['file', image, '--create', '1M', '-U', directory.file('s')]);
    expect(message).toContain(image);
  });
});

describe('numbers', () => {
  test.each(['', 'big', '-1', '1X', '1.5G', '0x10', '1 G', '16E', '99999999999999999999', 'NaN', '1e6'])(
    'the size "%s" is refused',
    async (size) => {
      await using directory = await temporaryDirectory();
      const image = directory.file('new.img');
      // With "=" a value that begins with "-" belongs to the option.
      const message = await expectRefusal(['file', image, `--create=${size}`, '-U', directory.file('s')]);
      expect(message).toMatch(/create|size/i);
      await expect(stat(image)).rejects.toThrow('ENOENT');
    },
  );

  test.each(['', 'many', '-1', '0', '2.5', '1e3', '99999999999999999999'])(
    'the window count "%s" is refused',
    async (count) => {
      await using directory = await temporaryDirectory();
      const image = directory.file('disk.img');
      await createImage(image, MiB);
      const message = await expectRefusal([
        'file',
        image,
        '--cache=none',
        `--windows=${count}`,
        '-U',
        directory.file('s'),
      ]);
      expect(message).toMatch(/windows/i);
    },
  );

  test.each(['', 'http', '-1', '65536', '80.5'])('the port "%s" is refused', async (port) => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    expect(await expectRefusal(['file', image, `--port=${port}`])).toMatch(/port/i);
  });
});

describe('the command line', () => {
  test('an unknown option is refused', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    expect(await expectRefusal(['file', image, '--no-such-option'], { lines: 2 })).toContain(
      '--no-such-option',
    );
  });

  test('an unknown subcommand is refused', async () => {
    expect(await expectRefusal(['no-such-command', 'x'], { lines: 2 })).toContain('no-such-command');
  });

  test('a missing path is refused', async () => {
    expect(await expectRefusal(['file'])).toMatch(/path/);
  });

  test('a second path is refused', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await expectRefusal(['file', image, image, '-U', directory.file('s')]);
  });

  test('an unknown cache mode is refused', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    expect(await expectRefusal(['file', image, '--cache', 'sometimes'])).toContain('sometimes');
  });

  test('an export name of more than 4096 bytes is refused', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await expectRefusal(['file', image, '--export-name', 'é'.repeat(2049), '-U', directory.file('s')]);
  });
});

describe('the address', () => {
  test('a port that is in use is refused', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using cleanup = new Cleanup();
    const other = createServer();
    await new Promise<void>((resolve) => {
      other.listen(0, '127.0.0.1', resolve);
    });
    cleanup.defer(
      async () =>
        new Promise((resolve) => {
          other.close(resolve);
        }),
    );
    const address = other.address();
    if (address === null || typeof address === 'string') throw new Error('no port');
    const message = await expectRefusal(['file', image, '--port', String(address.port)]);
    expect(message).toContain(String(address.port));
    expect(message).toMatch(/in use|EADDRINUSE/i);
  });

  test('an address that is not ours is refused', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    // From the block of addresses for documentation: no machine has it.
    await expectRefusal(['file', image, '--port', '0', '--bind', '192.0.2.1', '--allow-plaintext']);
  });

  test('an address beyond loopback is refused without --allow-plaintext', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    const message = await expectRefusal(['file', image, '--port', '0', '--bind', '0.0.0.0']);
    expect(message).toContain('--allow-plaintext');
    await using server = await startServer([
      'file',
      image,
      '--port',
      '0',
      '--bind',
      '0.0.0.0',
      '--allow-plaintext',
    ]);
    expect(server.uri).toMatch(/^nbd:\/\//);
  });

  test('a socket with a live server behind it is refused and goes on working', async () => {
    await using directory = await temporaryDirectory();
    const [one, other] = [directory.file('one.img'), directory.file('other.img')];
    await createImage(one, MiB);
    await createImage(other, 2 * MiB);
    await using server = await startServer(['file', one]);
    const message = await expectRefusal(['file', other, '-U', server.socketPath]);
    expect(message).toContain(server.socketPath);
    expect(message).toMatch(/in use|alive|listen/i);
    expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
  });

  test('a stale socket is replaced', async () => {
    await using directory = await temporaryDirectory();
    const [image, path] = [directory.file('disk.img'), directory.file('stale.sock')];
    await createImage(image, MiB);
    await run([PYTHON, '-c', 'import socket, sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])', path]);
    expect((await stat(path)).isSocket()).toBe(true);
    await using server = await startServer(['file', image, '-U', path]);
    expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
  });

  test('the socket of a server that was killed is replaced', async () => {
    await using directory = await temporaryDirectory();
    const [image, path] = [directory.file('disk.img'), directory.file('killed.sock')];
    await createImage(image, MiB);
    await using killed = await startServer(['file', image, '-U', path]);
    killed.signal('SIGKILL');
    await killed.ended();
    await using server = await startServer(['file', image, '-U', path]);
    expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
  });

  test('a regular file in the place of the socket is refused and left alone', async () => {
    await using directory = await temporaryDirectory();
    const [image, path] = [directory.file('disk.img'), directory.file('precious')];
    await createImage(image, MiB);
    await writeFile(path, 'precious data');
    const message = await expectRefusal(['file', image, '-U', path]);
    expect(message).toContain(path);
    expect(await readFile(path, 'utf8')).toBe('precious data');
  });

  test('a socket in a missing directory, and one with too long a name, are refused', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    const missing = directory.file('missing/nbd.sock');
    expect(await expectRefusal(['file', image, '-U', missing])).toContain(missing);
    await expectRefusal(['file', image, '-U', directory.file('x'.repeat(200))]);
  });
});

test('an image that was just made is removed again when the server cannot listen, an older one is not', async () => {
  await using directory = await temporaryDirectory();
  const old = directory.file('old.img');
  await createImage(old, MiB);
  for (const image of [directory.file('new.img'), old]) {
    await expectRefusal(['file', image, '--create', '1M', '--bind', '0.0.0.0']);
  }
  await expect(stat(directory.file('new.img'))).rejects.toThrow(/ENOENT/);
  expect((await stat(old)).size).toBe(MiB);
});

test('an image that shrinks under the server gives errors, not a crash', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, 4 * MiB);
  await using server = await startServer(['file', image]);
  await truncate(image, MiB);
  const { code, stderr } = await attempt(['nbdcopy', '--allocated', '--no-extents', server.uri, 'null:']);
  expect(code).not.toBe(0);
  expect(stderr).toMatch(/error/i);
  expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${4 * MiB}\n`);
});
