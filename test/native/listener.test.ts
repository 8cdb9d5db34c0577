/** Listening sockets: what they refuse, hand out, survive, and let go. */
import { chmodSync, closeSync, existsSync, fstatSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import net from 'node:net';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { type Listener, native } from '../../src/native/binding.ts';
import {
  childPath,
  cleanExit,
  defer,
  EADDRINUSE,
  EBADF,
  EINVAL,
  ENAMETOOLONG,
  run,
  runChild,
  temporaryFile,
  temporaryFolder,
} from './support.ts';

function socketPath(): string {
  return join(temporaryFolder(), 'socket');
}

function connect(path: string): net.Socket {
  const client = net.connect(path);
  client.on('error', () => {});
  defer(() => client.destroy());
  return client;
}

function connected(client: net.Socket): Promise<void> {
  return new Promise((resolve, reject) => {
    client.once('connect', () => resolve());
    client.once('error', reject);
  });
}

/** Listens on `path` and closes what it accepts after the test. */
function listen(path: string, accepted: (descriptor: number, listener: Listener) => void): Listener {
  const fd = native.listen_unix(path, 0o600, 511);
  expect(fd).toBeGreaterThanOrEqual(0);
  const listener = new native.Listener(fd, (descriptor) => {
    if (descriptor >= 0) defer(() => closeSync(descriptor));
    accepted(descriptor, listener);
  });
  defer(() => listener.close());
  return listener;
}

describe('listen_unix', () => {
  test.each([0o600, 0o660, 0o666, 0o700, 0])('makes mode %o from the start, whatever the umask', (mode) => {
    const umask = process.umask(0);
    defer(() => process.umask(umask));
    const path = socketPath();
    const fd = native.listen_unix(path, mode, 1);
    defer(() => closeSync(fd));
    expect(statSync(path).mode & 0o777).toBe(mode);
    expect(statSync(path).isSocket()).toBe(true);
  });

  test('takes 107 bytes of path and refuses 108', () => {
    const folder = temporaryFolder();
    const name = 'n'.repeat(107 - folder.length - 1);
    const fd = native.listen_unix(join(folder, name), 0o600, 1);
    expect(fd).toBeGreaterThanOrEqual(0);
    closeSync(fd);
    expect(native.listen_unix(join(folder, `${name}n`), 0o600, 1)).toBe(-ENAMETOOLONG);
    expect(native.listen_unix(join(folder, 'ä'.repeat(54)), 0o600, 1)).toBe(-ENAMETOOLONG);
  });

  test('refuses no path, a NUL in it, and a name that is taken', () => {
    const path = socketPath();
    expect(native.listen_unix('', 0o600, 1)).toBe(-EINVAL);
    expect(native.listen_unix('\0abstract', 0o600, 1)).toBe(-EINVAL);
    expect(native.listen_unix(`${path}\0`, 0o600, 1)).toBe(-EINVAL);
    writeFileSync(path, 'mine');
    expect(native.listen_unix(path, 0o600, 1)).toBe(-EADDRINUSE);
    expect(readFileSync(path, 'utf8')).toBe('mine');
  });

  test('makes close-on-exec, non-blocking descriptors', () => {
    const fd = native.listen_unix(socketPath(), 0o600, 1);
    defer(() => closeSync(fd));
    const flags = Number.parseInt(
      /flags:\s+(\d+)/.exec(readFileSync(`/proc/self/fdinfo/${fd}`, 'utf8'))?.[1] ?? '',
      8,
    );
    const O_CLOEXEC = 0o2000000;
    const O_NONBLOCK = 0o4000;
    expect(flags & (O_CLOEXEC | O_NONBLOCK)).toBe(O_CLOEXEC | O_NONBLOCK);
  });
});

describe('listen_tcp', () => {
  test.each(['127.0.0.1', '::1', '::1%lo', '::1%1'])('listens on %s', async (address) => {
    const fd = native.listen_tcp(address, 0, 16);
    expect(fd).toBeGreaterThanOrEqual(0);
    const port = native.local_port(fd);
    expect(port).toBeGreaterThan(0);
    const accepted = new Promise<number>((resolve) => {
      const listener = new native.Listener(fd, resolve);
      defer(() => listener.close());
    });
    const client = net.connect(port, address.replace(/%.*/, ''));
    defer(() => client.destroy());
    const descriptor = await accepted;
    expect(fstatSync(descriptor).isSocket()).toBe(true);
    closeSync(descriptor);
  });

  test('keeps IPv4 out of an IPv6 socket', () => {
    const six = native.listen_tcp('::', 0, 1);
    defer(() => closeSync(six));
    const four = native.listen_tcp('0.0.0.0', native.local_port(six), 1);
    expect(four).toBeGreaterThanOrEqual(0);
    closeSync(four);
  });

  test.each([
    '',
    'localhost',
    '1.2.3',
    '127.0.0.1%lo',
    '::1%',
    '::1%nowhere',
    '::1%0',
    '127.0.0.1\0',
    '[::1]',
  ])('refuses %j as an address', (address) => {
    expect(native.listen_tcp(address, 0, 1)).toBe(-EINVAL);
  });

  test('says that a port is taken', () => {
    const fd = native.listen_tcp('127.0.0.1', 0, 1);
    defer(() => closeSync(fd));
    expect(native.listen_tcp('127.0.0.1', native.local_port(fd), 1)).toBe(-EADDRINUSE);
  });

  test('local_port is for TCP only', () => {
    const fd = native.listen_unix(socketPath(), 0o600, 1);
    defer(() => closeSync(fd));
    expect(native.local_port(fd)).toBeLessThan(0);
    expect(native.local_port(99_999)).toBe(-EBADF);
  });
});

describe('Listener', () => {
  test('accepts many, each once, ready for net.Socket', async () => {
    const path = socketPath();
    const count = 300;
    const descriptors = new Set<number>();
    let echoed = 0;
    await new Promise<void>((resolve) => {
      const fd = native.listen_unix(path, 0o600, 511);
      const listener = new native.Listener(fd, (descriptor) => {
        expect(descriptor).toBeGreaterThanOrEqual(0);
        descriptors.add(descriptor);
        const socket = new net.Socket({ fd: descriptor });
        defer(() => socket.destroy());
        socket.pipe(socket);
      });
      defer(() => listener.close());
      for (let index = 0; index < count; index += 1) {
        const client = connect(path);
        client.write('x');
        client.once('data', () => {
          echoed += 1;
          if (echoed === count) resolve();
        });
      }
    });
    expect(descriptors.size).toBe(count);
  });

  test('closes inside its own callback, and calls it no more', async () => {
    const path = socketPath();
    let calls = 0;
    const listener = listen(path, (_, self) => {
      calls += 1;
      self.close();
      self.close();
    });
    listener.pause();
    // Three in the backlog before the first is accepted.
    const clients = [connect(path), connect(path), connect(path)];
    await Promise.all(clients.map(connected));
    const reset = new Promise((resolve) => clients[2]?.once('close', resolve));
    clients[2]?.resume();
    listener.resume();
    await reset;
    expect(calls).toBe(1);
    listener.pause();
    listener.resume();
    listener.close();
    await expect(connected(net.connect(path))).rejects.toMatchObject({ code: 'ECONNREFUSED' });
  });

  test('pauses inside a batch, and resumes where it was', async () => {
    const path = socketPath();
    let calls = 0;
    let wake = () => {};
    const listener = listen(path, (_, self) => {
      calls += 1;
      self.pause();
      wake();
    });
    listener.pause();
    await Promise.all([1, 2, 3, 4, 5].map(() => connected(connect(path))));
    for (let wanted = 1; wanted <= 5; wanted += 1) {
      const accepted = new Promise<void>((resolve) => {
        wake = resolve;
      });
      listener.resume();
      listener.resume();
      await accepted;
      expect(calls).toBe(wanted);
    }
  });

  test('throws for a descriptor that cannot be watched, and leaves it alone', () => {
    const { fd } = temporaryFile();
    expect(() => new native.Listener(99_999, () => {})).toThrow(/cannot be watched/);
    expect(() => new native.Listener(fd, () => {})).toThrow(/cannot be watched/);
    expect(fstatSync(fd).isFile()).toBe(true);
  });

  test('throws for a descriptor that is watched already', () => {
    const fd = native.listen_unix(socketPath(), 0o600, 1);
    const listener = new native.Listener(fd, () => {});
    defer(() => listener.close());
    expect(() => new native.Listener(fd, () => {})).toThrow(/EEXIST|cannot be watched/);
  });

  test('leaks no descriptor', async () => {
    const path = socketPath();
    for (let round = 0; round < 50; round += 1) {
      const fd = native.listen_unix(`${path}${round}`, 0o600, 1);
      const listener = new native.Listener(fd, () => {});
      listener.close();
      expect(() => fstatSync(fd)).toThrow(/EBADF/);
    }
    await new Promise((resolve) => setImmediate(resolve));
    expect(readFileSync('/proc/net/unix', 'utf8')).not.toContain(path);
  });

  test('without descriptors left pauses, says so once, and goes on after resume', async () => {
    const path = socketPath();
    const output = run(
      'prlimit',
      '--nofile=64:64',
      process.execPath,
      childPath('listener-child.mjs'),
      'emfile',
      path,
    );
    expect(output).toBe('accepted -24\npaused\naccepted descriptor\n');
  });

  test('an open one keeps the process, a closed or paused one does not', async () => {
    expect(await runChild('listener-child.mjs', ['lifetime', socketPath()])).toMatchObject(
      cleanExit('accepted descriptor\n'),
    );
    expect(await runChild('listener-child.mjs', ['paused', socketPath()])).toMatchObject(cleanExit(''));
  });

  test('survives an exception thrown by its callback', async () => {
    expect(await runChild('listener-child.mjs', ['throw', socketPath()])).toMatchObject(
      cleanExit('uncaught 1\nuncaught 2\nuncaught 3\n'),
    );
  });

  test('a socket file is the caller’s to remove', () => {
    const path = socketPath();
    const listener = new native.Listener(native.listen_unix(path, 0o600, 1), () => {});
    listener.close();
    expect(existsSync(path)).toBe(true);
    chmodSync(path, 0o600);
  });
});
