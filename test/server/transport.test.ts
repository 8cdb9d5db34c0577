/** What a transport says of its socket: how much it is best written at a time, and when files are sent from the cache. */
import net from 'node:net';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { native } from '../../src/native/binding.ts';
import { Transport } from '../../src/server/transport.ts';
import { defer, temporaryFolder } from '../native/support.ts';
import { FakeLog } from './fake-log.ts';

const KiB = 1024;

async function transportOn(listening: number, client: () => net.Socket): Promise<Transport> {
  const accepted = new Promise<number>((resolve) => {
    const listener = new native.Listener(listening, resolve);
    defer(() => listener.close());
  });
  const socket = client().on('error', () => {});
  defer(() => socket.destroy());
  const events = { received: () => true, ended: () => {}, closed: () => {} };
  const transport = new Transport(await accepted, events, new FakeLog());
  defer(() => transport.cut());
  return transport;
}

/** Lengths at which the answer changes. */
function borders(transport: Transport): number[] {
  const lengths = [32, 64, 128, 256, 1024, 32 * 1024].flatMap((each) => [each * KiB, each * KiB + 1]);
  return lengths.filter(
    (length, index) => transport.sendsFile(length) !== transport.sendsFile(lengths[index - 1] ?? 0),
  );
}

test('a Unix socket takes 128 KiB at a time, and files of more than 64 KiB', async () => {
  const path = join(temporaryFolder(), 'socket');
  const transport = await transportOn(native.listen_unix(path, 0o600, 1), () => net.connect(path));
  expect(transport.writeBytesMax).toBe(128 * KiB);
  expect(borders(transport)).toEqual([64 * KiB + 1]);
});

test('TCP inside a host takes 1 MiB at a time, and files of more than 128 and up to 256 KiB', async () => {
  const listening = native.listen_tcp('127.0.0.1', 0, 1);
  const port = native.local_port(listening);
  const transport = await transportOn(listening, () => net.connect(port, '127.0.0.1'));
  expect(transport.writeBytesMax).toBe(1024 * KiB);
  expect(borders(transport)).toEqual([128 * KiB + 1, 256 * KiB + 1]);
});

test('with TLS everybody takes 128 KiB at a time, and no files in either direction', async () => {
  const listening = native.listen_tcp('127.0.0.1', 0, 1);
  const port = native.local_port(listening);
  const transport = await transportOn(listening, () => net.connect(port, '127.0.0.1'));
  expect(transport.canReceiveInPlace).toBe(true);
  const context = new native.TlsContext('', '', '', '', 'DEFAULT', 'TLS_AES_128_GCM_SHA256', false);
  transport.startTls(context, () => {});
  expect(transport.writeBytesMax).toBe(128 * KiB);
  expect(borders(transport)).toEqual([]);
  expect(transport.canReceiveInPlace).toBe(false);
});
