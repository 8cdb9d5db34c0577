/** systemd's interfaces: sockets that were there before the server, and who wants to know how it does. */
import { stat, writeFile } from 'node:fs/promises';
import { setTimeout as sleep } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { attemptActivated, startActivated } from '../support/activation.ts';
import { attempt, run } from '../support/command.ts';
import { createImage } from '../support/image.ts';
import { NotifySocket } from '../support/notify-socket.ts';
import { eventually } from '../support/polling.ts';
import { PROGRAM, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { testId } from '../support/test-id.ts';

/** systemd-socket-activate knows no port 0. Below the ports that the kernel picks for others. */
const PORT = 20_000 + (process.pid % 10_000);

describe('socket activation', () => {
  test('serves on the inherited Unix socket, whose URI is printed and whose file stays', async () => {
    await using directory = await temporaryDirectory();
    const [image, path] = [directory.file('disk.img'), directory.file('s')];
    await createImage(image, MiB);
    const options = ['-l', path, '--fdname=nbd'];
    await using server = await startActivated(path, options, ['file', image, '-e', 'x']);
    expect(server.uri).toBe(`nbd+unix:///x?socket=${path}`);
    expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
    await server.stop();
    expect((await stat(path)).isSocket()).toBe(true);
  });

  test('serves on every socket, TCP included, and prints the first', async () => {
    await using directory = await temporaryDirectory();
    const [image, path] = [directory.file('disk.img'), directory.file('s')];
    await createImage(image, MiB);
    const options = ['-l', `127.0.0.1:${PORT}`, '-l', path];
    await using server = await startActivated(path, options, ['file', image]);
    expect(server.uri).toBe(`nbd://127.0.0.1:${PORT}/`);
    for (const uri of [server.uri, `nbd+unix:///?socket=${path}`]) {
      expect(await run(['nbdinfo', '--size', uri])).toBe(`${MiB}\n`);
    }
  });

  test.each([
    ['another listener', ['-U', '-'], [], /--unix, --port and --bind cannot be combined/],
    ['a command', ['--run', 'true'], [], /--run cannot be combined with the sockets of a service manager/],
    ['every interface in plaintext', [], ['-l', `[::]:${PORT}`], /Refusing to serve in plaintext on ::,/],
  ])('%s is refused in one line', async (_, words, sockets, message) => {
    await using directory = await temporaryDirectory();
    const [image, path] = [directory.file('disk.img'), directory.file('s')];
    await createImage(image, MiB);
    const { code, stdout, stderr } = await attemptActivated(
      path,
      ['-l', path, ...sockets],
      ['file', image, ...words],
    );
    expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^[^\n]+\n$/);
    expect(stderr).toMatch(message);
  });

  test.each([
    ['1', /descriptor 3 of the service manager: it is no listening stream socket \(ENOTSOCK\)/],
    ['0', /\$LISTEN_FDS is "0"/],
    ['many', /\$LISTEN_FDS is "many"/],
  ])('a descriptor that is a file, and LISTEN_FDS=%s, are refused in one line', async (count, message) => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    const script = 'export LISTEN_PID=$$; exec "$@" 3<"$0"';
    const { code, stdout, stderr } = await attempt(['sh', '-c', script, image, ...PROGRAM, 'file', image], {
      environment: { LISTEN_FDS: count },
    });
    expect({ code, stdout }, stderr).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(/^[^\n]+\n$/);
    expect(stderr).toMatch(message);
  });
});

describe('the notify socket', () => {
  test.each(['a path', 'an abstract name'])('%s hears READY, and STOPPING before the end', async (kind) => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    const address = kind === 'a path' ? directory.file('notify') : `@nbd-serve-test-${testId()}`;
    await using manager = await NotifySocket.bind(address);
    await using server = await startServer(['file', image], { environment: { NOTIFY_SOCKET: address } });
    expect(await manager.heard(/^READY=1$/m)).toBe(`READY=1\nSTATUS=Serving ${server.uri}`);
    await server.stop();
    expect(await manager.heard(/^STOPPING=1$/m)).toBe('STOPPING=1\nSTATUS=Ending: SIGTERM');
    expect(manager.messages.length).toBe(2);
  });

  test('SIGHUP tells of the reload and of its end', async () => {
    await using directory = await temporaryDirectory();
    const [image, keys] = [directory.file('disk.img'), directory.file('keys.psk')];
    await createImage(image, MiB);
    await writeFile(keys, `alice:${'5a'.repeat(32)}\n`, { mode: 0o600 });
    await using manager = await NotifySocket.bind(directory.file('notify'));
    await using server = await startServer(['file', image, '--tls', 'allow', '--tls-psk', keys], {
      environment: { NOTIFY_SOCKET: manager.address },
    });
    await manager.heard(/^READY=1$/m);
    server.signal('SIGHUP');
    await eventually('it is ready again', () => (manager.messages.length === 3 ? true : undefined));
    expect(manager.messages[1]).toMatch(/^RELOADING=1\nMONOTONIC_USEC=\d+$/);
    expect(manager.messages[2]).toMatch(/^READY=1$/m);
  });

  test('the watchdog is fed while the event loop turns, and late in one line when it stood still', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using manager = await NotifySocket.bind(directory.file('notify'));
    await using server = await startServer(['file', image], {
      environment: { NOTIFY_SOCKET: manager.address, WATCHDOG_USEC: '400000' },
    });
    await manager.heard(/^WATCHDOG=1$/);
    server.signal('SIGSTOP');
    const fed = manager.messages.length;
    await sleep(900);
    expect(manager.messages.length - fed).toBeLessThanOrEqual(1);
    server.signal('SIGCONT');
    const late = await eventually('the log says so', () =>
      server.log.find(({ msg }) => msg?.startsWith('The watchdog was late')),
    );
    expect(late).toMatchObject({ level: 40, limitMs: 400 });
    expect(Number(late['lateMs'])).toBeGreaterThan(400);
  });

  test('commands of --run are told nothing of it, nor of inherited sockets', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using manager = await NotifySocket.bind(directory.file('notify'));
    const output = await run([...PROGRAM, 'file', image, '--run', 'env; ls /proc/$$/fd'], {
      environment: {
        NOTIFY_SOCKET: manager.address,
        WATCHDOG_USEC: '60000000',
        LISTEN_FDS: '1',
        LISTEN_PID: '1',
        LISTEN_FDNAMES: 'x',
      },
    });
    expect(output).not.toMatch(/NOTIFY_SOCKET|WATCHDOG_|LISTEN_/);
    // The lowest numbers are the server's own; what the test was started with may have others.
    expect(output.split('\n').filter((line) => /^\d{1,2}$/.test(line))).toEqual(['0', '1', '2']);
    await manager.heard(/^STOPPING=1$/m);
  });

  test.each([
    [{ NOTIFY_SOCKET: '/nonexistent/notify' }, /The service manager could not be told/],
    [{ NOTIFY_SOCKET: 'vsock:2:1' }, /\$NOTIFY_SOCKET is no Unix socket/],
    [{ NOTIFY_SOCKET: '/nonexistent', WATCHDOG_USEC: 'soon' }, /\$WATCHDOG_USEC is no number/],
  ])('%j is a warning, and serving goes on', async (environment, message) => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using server = await startServer(['file', image], { environment });
    expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
    await server.stop();
    expect(
      server.log.filter(({ level, msg }) => level === 40 && message.test(msg ?? '')).length,
    ).toBeGreaterThan(0);
  });
});
