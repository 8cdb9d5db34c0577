/** The in-process server, with libnbd on the other side. */
import { existsSync } from 'node:fs';
import { dirname } from 'node:path';
import { expect, test } from 'vitest';
import { defineExport, serve } from '../../src/index.ts';
import { FakeLog } from '../server/fake-log.ts';
import { run } from '../support/command.ts';
import { eventually } from '../support/polling.ts';
import { python } from '../support/python.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const SIGNALS = ['SIGTERM', 'SIGINT', 'SIGHUP', 'uncaughtException', 'unhandledRejection', 'exit'] as const;

function ramDisk(size = 1024 * 1024) {
  const disk = new Uint8Array(size);
  return defineExport({
    size,
    description: 'some RAM',
    read: (offset, length) => disk.subarray(offset, offset + length),
    write: (offset, data) => disk.set(data, offset),
  });
}

test('listens on a private Unix socket, which is gone afterwards', async () => {
  const server = await serve(ramDisk());
  expect(server.uri).toMatch(/^nbd\+unix:\/\/\/\?socket=\//);
  if (server.address.kind !== 'unix') throw new Error('no Unix socket');
  const { path } = server.address;
  expect(existsSync(path)).toBe(true);
  expect(await run(['nbdinfo', '--size', server.uri])).toBe('1048576\n');
  expect(await run(['nbdinfo', server.uri])).toContain('description: some RAM');
  expect(server.close()).toBe(server.close());
  await server.close();
  expect(existsSync(dirname(path))).toBe(false);
});

test('is disposed of by await using, and leaves the process as it was', async () => {
  const listeners = () => SIGNALS.map((name) => process.listenerCount(name));
  const [before, consoleBefore] = [listeners(), globalThis.console];
  let uri = '';
  {
    await using server = await serve(ramDisk());
    ({ uri } = server);
    expect(listeners()).toEqual(before);
    expect(globalThis.console).toBe(consoleBefore);
    await python(
      uri,
      'h = connect(); h.pwrite(b"x" * 5000, 7); assert h.pread(5002, 6) == b"\\0" + b"x" * 5000 + b"\\0"',
    );
  }
  expect(listeners()).toEqual(before);
  await expect(run(['nbdinfo', '--size', uri])).rejects.toThrow();
});

test('listens where it is told to, under the name it is told', async () => {
  await using directory = await temporaryDirectory();
  const path = directory.file('device.sock');
  await using unix = await serve(ramDisk(), { unix: path, exportName: 'disk 1', description: 'other words' });
  expect(unix).toMatchObject({ uri: `nbd+unix:///disk%201?socket=${path}`, address: { kind: 'unix', path } });
  expect(await run(['nbdinfo', unix.uri])).toContain('description: other words');
  await using tcp = await serve(ramDisk(), { port: 0, isReadOnly: true });
  if (tcp.address.kind !== 'tcp') throw new Error('no TCP');
  expect(tcp.uri).toBe(`nbd://127.0.0.1:${tcp.address.port}/`);
  await python(tcp.uri, 'assert connect().is_read_only()');
  await using other = await serve(ramDisk(), { bind: '::1' });
  expect(other.address).toMatchObject({ kind: 'tcp', host: '::1' });
  expect(await run(['nbdinfo', '--size', other.uri])).toBe('1048576\n');
});

test('rejects, with one line, what it cannot serve or listen on', async () => {
  const disk = ramDisk();
  await expect(serve({ ...disk, size: -1 })).rejects.toThrow('"size" of an export is a whole number from 0');
  await expect(serve(disk, { exportName: 'x'.repeat(5000) })).rejects.toThrow('at most 4096 bytes');
  await expect(serve(disk, { bind: '0.0.0.0', port: 0 })).rejects.toThrow(
    /^Refusing to serve in plaintext .*allowPlaintext: true/,
  );
  await expect(serve(disk, { unix: '/dev/null' })).rejects.toThrow('no socket');
  await expect(serve(disk, { port: 70_000 })).rejects.toThrow(/port/i);
});

test('counts connections and gives its lines to the log', async () => {
  const log = new FakeLog();
  await using server = await serve(ramDisk(), { log });
  await python(server.uri, 'connect().pread(1, 0)');
  await eventually('the connection is closed', () => (server.connectionCount === 0 ? true : undefined));
  expect(log.at('info').map(({ message }) => message)).toEqual(['Connection opened', 'Connection closed']);
});
