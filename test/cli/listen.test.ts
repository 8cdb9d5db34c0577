/** Which sockets are opened, which are refused, and what is left behind: nothing. */
import {
  closeSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmdirSync,
  statSync,
  symlinkSync,
  unlinkSync,
  writeFileSync,
} from 'node:fs';
import { connect, createServer } from 'node:net';
import { dirname } from 'node:path';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { type ListeningSocket, type ListenOptions, openListeners } from '../../src/cli/listen.ts';
import { native } from '../../src/native/binding.ts';
import { type TemporaryDirectory, temporaryDirectory } from '../support/temporary-directory.ts';

const NOTHING: ListenOptions = {
  unix: undefined,
  port: undefined,
  bind: undefined,
  allowPlaintext: false,
  isTlsRequired: false,
  exportName: '',
};

afterEach(() => {
  vi.unstubAllEnvs();
});

/** Opened sockets, closed and removed at the end of the scope. */
class Opened implements AsyncDisposable {
  readonly sockets: readonly ListeningSocket[];

  constructor(sockets: readonly ListeningSocket[]) {
    this.sockets = sockets;
  }

  get uris(): string[] {
    return this.sockets.map(({ uri }) => uri);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const { fd, remove } of this.sockets) {
      closeSync(fd);
      remove();
    }
  }
}

async function open(options: Partial<ListenOptions>): Promise<Opened> {
  return new Opened(await openListeners({ ...NOTHING, ...options }));
}

/** The line that explains why nothing listens. */
async function refusalOf(options: Partial<ListenOptions>): Promise<string> {
  const error: unknown = await openListeners({ ...NOTHING, ...options }).then(
    () => undefined,
    (reason: unknown) => reason,
  );
  expect(error).toMatchObject({ name: 'CommandError' });
  const { message } = error as Error;
  expect(message).not.toContain('\n');
  return message;
}

function canConnect(path: string): Promise<boolean> {
  return new Promise((resolve) => {
    const client = connect(path);
    client.once('connect', () => {
      client.destroy();
      resolve(true);
    });
    client.once('error', () => resolve(false));
  });
}

/** A socket in the file system behind which nobody listens any more. */
function makeStaleSocket(path: string): void {
  const fd = native.listen_unix(path, 0o600, 1);
  expect(fd).toBeGreaterThanOrEqual(0);
  closeSync(fd);
}

/** True while any process has a Unix socket bound to `path` open, whether or not the file is there. */
function isBound(path: string): boolean {
  return readFileSync('/proc/net/unix', 'utf8')
    .split('\n')
    .some((line) => line.endsWith(` ${path}`));
}

describe('a Unix socket', () => {
  test('belongs to its owner only, and its URI names it', async () => {
    await using directory = await temporaryDirectory();
    const path = directory.file('socket');
    await using opened = await open({ unix: path, exportName: 'disk' });
    expect(opened.uris).toEqual([`nbd+unix:///disk?socket=${path}`]);
    expect(statSync(path).mode & 0o777).toBe(0o600);
    expect(await canConnect(path)).toBe(true);
  });

  test('is removed', async () => {
    await using directory = await temporaryDirectory();
    const path = directory.file('socket');
    {
      await using opened = await open({ unix: path });
      expect(opened.sockets).toHaveLength(1);
    }
    expect(existsSync(path)).toBe(false);
    expect(isBound(path)).toBe(false);
  });

  test('is left alone when somebody else has put another one there meanwhile', async () => {
    await using directory = await temporaryDirectory();
    const path = directory.file('socket');
    {
      await using opened = await open({ unix: path });
      expect(opened.sockets).toHaveLength(1);
      unlinkSync(path);
      makeStaleSocket(directory.file('other'));
      makeStaleSocket(path);
    }
    expect(existsSync(path)).toBe(true);
  });

  test('may be gone already when it is removed', async () => {
    await using directory = await temporaryDirectory();
    const path = directory.file('socket');
    await using opened = await open({ unix: path });
    unlinkSync(path);
    expect(() => opened.sockets[0]?.remove()).not.toThrow();
  });

  test('that is stale is replaced', async () => {
    await using directory = await temporaryDirectory();
    const path = directory.file('socket');
    makeStaleSocket(path);
    await using opened = await open({ unix: path });
    expect(opened.sockets).toHaveLength(1);
    expect(await canConnect(path)).toBe(true);
  });

  test('that is alive is refused and stays alive', async () => {
    await using directory = await temporaryDirectory();
    const path = directory.file('socket');
    const server = createServer((socket) => socket.destroy());
    await new Promise<void>((resolve) => server.listen(path, resolve));
    try {
      expect(await refusalOf({ unix: path })).toBe(
        `Cannot listen on "${path}": another server listens there`,
      );
      expect(await canConnect(path)).toBe(true);
    } finally {
      await new Promise((resolve) => server.close(resolve));
    }
  });

  test('is refused where a file, a folder or a symbolic link is, which stays as it is', async () => {
    await using directory = await temporaryDirectory();
    const file = directory.file('file');
    const folder = directory.file('folder');
    const link = directory.file('link');
    writeFileSync(file, 'precious');
    mkdirSync(folder);
    symlinkSync(file, link);
    for (const path of [file, folder, link]) {
      expect(await refusalOf({ unix: path })).toBe(
        `Cannot listen on "${path}": there is a file that is no socket`,
      );
    }
    expect(readFileSync(link, 'utf8')).toBe('precious');
    expect(readdirSync(folder)).toEqual([]);
  });

  test('is refused where it cannot be made', async () => {
    await using directory = await temporaryDirectory();
    expect(await refusalOf({ unix: directory.file('missing/socket') })).toContain('ENOENT');
    expect(await refusalOf({ unix: directory.file('x'.repeat(108)) })).toContain('ENAMETOOLONG');
  });
});

describe('a private Unix socket', () => {
  /** A folder for temporary files, empty, with a name of at least `length` bytes. */
  function useTemporaryFolder(directory: TemporaryDirectory, length = 0): string {
    const folder = directory.file('t'.repeat(Math.max(1, length - directory.path.length)));
    mkdirSync(folder);
    vi.stubEnv('TMPDIR', folder);
    return folder;
  }

  test('lies in a folder of its own that only the owner may enter, and both are removed', async () => {
    await using directory = await temporaryDirectory();
    const parent = useTemporaryFolder(directory);
    const opened = await open({ unix: '-' });
    const path = new URL(opened.uris[0] ?? '').searchParams.get('socket') ?? '';
    expect(path.startsWith(`${parent}/nbd-serve-`)).toBe(true);
    expect(statSync(dirname(path)).mode & 0o777).toBe(0o700);
    expect(await canConnect(path)).toBe(true);
    await opened[Symbol.asyncDispose]();
    expect(readdirSync(parent)).toEqual([]);
  });

  test('leaves no folder behind when it cannot be made', async () => {
    await using directory = await temporaryDirectory();
    const parent = useTemporaryFolder(directory, 120);
    expect(await refusalOf({ unix: '-' })).toContain('ENAMETOOLONG');
    expect(readdirSync(parent)).toEqual([]);
  });

  test('whose folder somebody has cleaned away is no reason to fail at the end', async () => {
    await using directory = await temporaryDirectory();
    useTemporaryFolder(directory);
    const opened = await open({ unix: '-' });
    const path = new URL(opened.uris[0] ?? '').searchParams.get('socket') ?? '';
    closeSync(opened.sockets[0]?.fd ?? -1);
    unlinkSync(path);
    rmdirSync(dirname(path));
    expect(() => opened.sockets[0]?.remove()).not.toThrow();
  });
});

describe('a TCP socket', () => {
  test('with port 0 gets a free port, which the URI names', async () => {
    await using opened = await open({ port: 0, exportName: 'a b' });
    const port = native.local_port(opened.sockets[0]?.fd ?? -1);
    expect(port).toBeGreaterThan(0);
    expect(opened.uris).toEqual([`nbd://127.0.0.1:${port}/a%20b`]);
  });

  test('listens on the IPv6 loopback address, too', async () => {
    await using opened = await open({ port: 0, bind: '::1' });
    expect(opened.uris[0]).toMatch(/^nbd:\/\/\[::1\]:\d+\/$/);
  });

  test('listens on the address of a name', async () => {
    await using opened = await open({ port: 0, bind: 'localhost' });
    expect(opened.uris[0]).toMatch(/^nbd:\/\/(127\.0\.0\.1|\[::1\]):\d+\/$/);
  });

  test('is refused where the port is in use', async () => {
    await using opened = await open({ port: 0 });
    const port = native.local_port(opened.sockets[0]?.fd ?? -1);
    expect(await refusalOf({ port })).toBe(
      `Cannot listen on 127.0.0.1 port ${port}: the port is in use (--port 0 picks a free one)`,
    );
  });

  test.each(['0.0.0.0', '::', '192.0.2.1', '10.0.0.1', '::ffff:10.0.0.1', 'fe80::1'])(
    'is refused on %s, which is not loopback',
    async (bind) => {
      expect(await refusalOf({ port: 0, bind })).toContain('Refusing to serve in plaintext on');
    },
  );

  test('listens beyond loopback when told to', async () => {
    await using opened = await open({ port: 0, bind: '0.0.0.0', allowPlaintext: true });
    expect(opened.uris[0]).toMatch(/^nbd:\/\/0\.0\.0\.0:\d+\/$/);
  });

  test('listens beyond loopback when TLS is required, and the URI says so', async () => {
    await using opened = await open({ port: 0, bind: '0.0.0.0', isTlsRequired: true });
    expect(opened.uris[0]).toMatch(/^nbds:\/\/0\.0\.0\.0:\d+\/$/);
  });

  test('is refused on an address that this machine does not have', async () => {
    expect(await refusalOf({ port: 0, bind: '192.0.2.1', allowPlaintext: true })).toContain(
      'this machine has no such address',
    );
  });

  test.each(['', 'no-such-host.invalid'])('is refused on %j, which is no address', async (bind) => {
    expect(await refusalOf({ port: 0, bind })).toContain(
      bind === '' ? '--bind needs an address' : `Cannot resolve "${bind}"`,
    );
  });
});

describe('both', () => {
  test('are opened, the Unix one first', async () => {
    await using directory = await temporaryDirectory();
    await using opened = await open({ unix: directory.file('socket'), port: 0 });
    expect(opened.uris.map((uri) => uri.split(':')[0])).toEqual(['nbd+unix', 'nbd']);
  });

  test('or none: when the port is in use the Unix socket is closed and removed', async () => {
    await using directory = await temporaryDirectory();
    await using other = await open({ port: 0 });
    const path = directory.file('socket');
    await refusalOf({ unix: path, port: native.local_port(other.sockets[0]?.fd ?? -1) });
    expect(existsSync(path)).toBe(false);
    expect(isBound(path)).toBe(false);
  });
});
