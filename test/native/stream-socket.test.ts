/** Connected sockets: bytes in and out without waiting, back-pressure, ends, and letting go. */
import { spawn } from 'node:child_process';
import net from 'node:net';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { native } from '../../src/native/binding.ts';
import { ROUTE_TCP_ON_THIS_HOST, ROUTE_UNIX } from '../../src/native/constants.ts';
import { EAGAIN } from '../../src/native/errno.ts';
import { run } from '../support/command.ts';
import { happens, pair } from './stream-pair.ts';
import { defer, EBADF, temporaryFolder } from './support.ts';

const EPIPE = 32;
const ECONNRESET = 104;

test('stands still until it is started, and again once it is stopped', async () => {
  const { client, stream, received } = await pair();
  await new Promise((resolve) => client.write('one', resolve));
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(received).toEqual([]);
  expect(stream.start()).toBe(0);
  await happens('the bytes arrive', () => received.length === 1);
  stream.stop();
  await new Promise((resolve) => client.write('two', resolve));
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(received).toEqual(['one']);
  stream.start();
  await happens('the rest arrives', () => received.length === 2);
  expect(received).toEqual(['one', 'two']);
});

test('fills only its part of the buffer, as often as it takes', async () => {
  const { client, stream, received, buffer } = await pair(4);
  client.write('0123456789');
  stream.start();
  await happens('all bytes arrive', () => received.join('') === '0123456789');
  expect(received.every((text) => String(text).length <= 4)).toBe(true);
  expect(buffer.toString('latin1', 0, 8)).toBe('........');
});

test('goes on in another buffer, also while it receives, and forgets no expected byte', async () => {
  const { client, stream, received, buffer, byteCount } = await pair();
  const second = Buffer.alloc(8, '.');
  const third = Buffer.alloc(8, '.');
  expect(() => stream.set_buffer(second, 4, 5)).toThrow(RangeError);
  stream.set_buffer(second, 2, 4);
  stream.start();
  client.write('0123');
  await happens('the bytes arrive', () => byteCount() === 4);
  expect(second.toString('latin1')).toBe('..0123..');
  const expected = Buffer.alloc(3);
  stream.expect(expected, 0, 3);
  stream.set_buffer(third, 0, 8);
  client.write('abcde');
  await happens('the rest arrives', () => byteCount() === 9);
  expect(expected.toString('latin1')).toBe('abc');
  expect(third.toString('latin1')).toBe('de......');
  expect(received).toHaveLength(2);
  expect(buffer.every((byte) => byte === '.'.charCodeAt(0))).toBe(true);
  stream.close();
  stream.set_buffer(second, 0, 8);
});

test('tells the end of the stream as 0 and can send after it', async () => {
  const { client, stream, received } = await pair();
  stream.start();
  client.end('last');
  await happens('the end is told', () => received.includes(0));
  expect(received).toEqual(['last', 0]);
  const answer = new Promise((resolve) => client.once('data', (data) => resolve(data.toString())));
  expect(stream.send(Buffer.from('-answer-'), 1, 6)).toBe(6);
  expect(await answer).toBe('answer');
});

test('takes a part, then nothing, and calls writable once when there is room again', async () => {
  const { client, stream, writable } = await pair();
  client.pause();
  const bytes = Buffer.alloc(1024 * 1024, 'x');
  let sent = 0;
  let last = 0;
  while (last >= 0) {
    last = stream.send(bytes, 0, bytes.length);
    sent += Math.max(last, 0);
  }
  expect(last).toBe(-EAGAIN);
  expect(sent).toBeGreaterThan(0);
  expect(stream.watch_writable()).toBe(0);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(writable).toEqual([]);
  let got = 0;
  client.on('data', (data) => {
    got += data.length;
  });
  client.resume();
  await happens('it is writable, and everything has arrived', () => writable.length > 0 && got === sent);
  expect(writable).toHaveLength(1);
});

test('tells that the client is gone: EPIPE to the sender, a reset or the end to the receiver', async () => {
  const { client, stream, received, writable } = await pair();
  // Unread bytes turn the close into a reset.
  stream.send(Buffer.from('unread'), 0, 6);
  client.pause();
  client.destroy();
  await happens('sending fails', () => stream.send(Buffer.from('x'), 0, 1) === -EPIPE);
  stream.watch_writable();
  await happens('who waits to write is woken', () => writable.length === 1);
  stream.start();
  await happens('the receiver hears of it', () => received.length === 1);
  expect([0, -ECONNRESET]).toContain(received[0]);
});

test('is no more once it is closed', async () => {
  const { stream } = await pair();
  stream.start();
  stream.close();
  const calls = [stream.start(), stream.send(Buffer.alloc(1), 0, 1), stream.watch_writable()];
  expect([...calls, stream.shut_down()]).toEqual(new Array(4).fill(-EBADF));
  stream.stop();
  stream.close();
});

test('may be closed by its own callback, which is not called again', async () => {
  const path = join(temporaryFolder(), 'socket');
  let calls = 0;
  const listener = new native.Listener(native.listen_unix(path, 0o600, 1), (fd) => {
    listener.close();
    const stream = new native.StreamSocket(
      fd,
      Buffer.alloc(1),
      0,
      1,
      () => {
        calls += 1;
        stream.close();
        stream.close();
      },
      () => {},
    );
    stream.start();
  });
  const client = net.connect(path).on('error', () => {});
  defer(() => client.destroy());
  const ended = new Promise((resolve) => client.once('close', resolve));
  client.write('two bytes at least');
  client.resume();
  await ended;
  expect(calls).toBe(1);
});

test('puts expected bytes where they belong, a few behind them where they usually go, and forgets at stop', async () => {
  const { client, stream, buffer, byteCount } = await pair(8192);
  const payload = Buffer.alloc(100_000, '.');
  const sent = Buffer.concat([Buffer.alloc(99_000, 'p'), Buffer.alloc(6000, 'b')]);
  expect(() => stream.expect(payload, 1, 100_000)).toThrow(RangeError);
  stream.expect(payload, 500, 99_000);
  stream.start();
  client.write(sent);
  await happens('everything arrives', () => byteCount() === 105_000);
  expect(
    payload.equals(Buffer.concat([Buffer.alloc(500, '.'), sent.subarray(0, 99_000), Buffer.alloc(500, '.')])),
  ).toBe(true);
  expect(buffer.subarray(8).includes('p')).toBe(false);
  stream.expect(payload, 0, 100_000);
  stream.stop();
  stream.start();
  client.write('header');
  await happens('the header arrives', () => byteCount() === 105_006);
  expect(buffer.toString('latin1', 8, 14)).toBe('header');
});

test('fills several parts in their order, behind what is skipped, and more of them than one call takes', async () => {
  const { client, stream, buffer, byteCount, results } = await pair(8192);
  const one = Buffer.alloc(50_000, '.');
  const other = Buffer.alloc(50_000, '.');
  const sent = Buffer.concat([Buffer.from('abcdefgh'.repeat(8000)), Buffer.alloc(3000, 'b')]);
  const ranges = Float64Array.of(100, 30_000, 0, 10, 7, 34_010);
  stream.expect_parts([one, other, other], ranges, 20, true);
  ranges.fill(0);
  stream.start();
  client.write(sent);
  await happens('everything arrives', () => byteCount() === sent.length);
  const payload = sent.subarray(0, 64_000);
  expect(one.subarray(120, 30_100).equals(payload.subarray(0, 29_980))).toBe(true);
  expect(one.subarray(0, 120).every((byte) => byte === '.'.charCodeAt(0))).toBe(true);
  expect(other.subarray(0, 7).equals(payload.subarray(29_980, 29_987))).toBe(true);
  expect(other.subarray(7, 34_017).equals(payload.subarray(29_990))).toBe(true);
  expect(buffer.toString('latin1', 8, 18)).toBe('bbbbbbbbbb');
  const before = results.length;
  const many = Array.from({ length: 200 }, () => Buffer.alloc(10));
  stream.expect_parts(many, new Float64Array(many.flatMap((_, index) => [index % 3, 7])), 1, false);
  client.write(`${'x'.repeat(1399)}behind`);
  await happens('everything arrives', () => byteCount() === sent.length + 1405);
  expect(
    many.every((part, index) => part.toString('latin1', index % 3, (index % 3) + 7).endsWith('xxxxxx')),
  ).toBe(true);
  expect(many[0]?.[0]).toBe(0);
  expect(results.slice(before).filter((result) => result > 1399)).toEqual([]);
  expect(buffer.toString('latin1', 8, 14)).toBe('behind');
});

test('sends a header and several parts, and says how much of them the kernel took', async () => {
  const { client, stream } = await pair();
  const chunks: Buffer[] = [];
  const count = (): number => chunks.reduce((sum, { length }) => sum + length, 0);
  const header = Buffer.from('-header-');
  const one = Buffer.from('0123456789');
  expect(stream.send_parts(header, 1, 6, [one, one], Float64Array.of(2, 3, 0, 2))).toBe(11);
  client.on('data', (chunk) => chunks.push(chunk));
  await happens('all arrives', () => count() === 11);
  expect(Buffer.concat(chunks).toString()).toBe('header23401');
  client.pause();
  const long = Buffer.alloc(16 * 1024 * 1024, 'l');
  const taken = stream.send_parts(header, 0, 8, [long], Float64Array.of(0, long.length));
  expect(taken).toBeGreaterThan(8);
  expect(taken).toBeLessThan(long.length);
  expect(stream.send_parts(header, 0, 8, [long], Float64Array.of(0, long.length))).toBe(-EAGAIN);
  client.resume();
  await happens('that arrives', () => count() === 11 + taken);
  const many = Array.from({ length: 100 }, () => one);
  // The first 64 of all parts.
  expect(stream.send_parts(header, 0, 8, many, new Float64Array(many.flatMap(() => [0, 1])))).toBe(8 + 63);
  stream.close();
  expect(stream.send_parts(header, 0, 8, [], new Float64Array(0))).toBe(-EBADF);
});

test.each<[string, unknown, unknown]>([
  ['no array', 7, new Float64Array(2)],
  ['an element that is none', [Buffer.alloc(4), 'text'], new Float64Array(4)],
  ['ranges that are none', [Buffer.alloc(4)], [0, 4]],
  ['too few ranges', [Buffer.alloc(4)], new Float64Array(1)],
  ['a range past the end', [Buffer.alloc(4)], Float64Array.of(1, 4)],
  ['a range that is no number', [Buffer.alloc(4)], Float64Array.of(Number.NaN, 4)],
])('refuses parts: %s', async (_what, arrays, ranges) => {
  const { stream } = await pair();
  const header = Buffer.alloc(4);
  const [parts, places] = [arrays as Buffer[], ranges as Float64Array];
  expect(() => stream.expect_parts(parts, places, 0, true)).toThrow(/arrays|ranges/);
  expect(() => stream.send_parts(header, 0, 4, parts, places)).toThrow(/arrays|ranges/);
  expect(() => stream.expect_parts([], new Float64Array(0), -1, true)).toThrow('skip');
});

test('shuts the sending half down', async () => {
  const { client, stream } = await pair();
  const ended = new Promise((resolve) => client.once('end', resolve));
  client.resume();
  expect(stream.shut_down()).toBe(0);
  await ended;
  expect(stream.send(Buffer.alloc(1), 0, 1)).toBe(-EPIPE);
});

test('refuses arguments that are none, and leaves the descriptor with the caller', () => {
  const none = (): void => {};
  const buffer = Buffer.alloc(4);
  expect(() => new native.StreamSocket(0, buffer, 0, 5, none, none)).toThrow(RangeError);
  expect(() => new native.StreamSocket(0, buffer, 0, 4, none, 1 as unknown as () => void)).toThrow(TypeError);
  expect(() => new native.StreamSocket(2 ** 30, buffer, 0, 4, none, none)).toThrow(/cannot be watched/);
  const path = join(temporaryFolder(), 'socket');
  const fd = native.listen_unix(path, 0o600, 1);
  const stream = new native.StreamSocket(fd, buffer, 0, 4, none, none);
  expect(() => stream.send(buffer, 3, 2)).toThrow(RangeError);
  stream.close();
});

test.each([
  ['alone', false],
  ['one of many', true],
])('polling takes a whole number of microseconds, and ends by itself: %s', async (_name, isOneOfMany) => {
  expect(() => native.set_busy_poll(-1, false)).toThrow(RangeError);
  expect(() => native.set_busy_poll(1_000_001, false)).toThrow(RangeError);
  const { client, stream, results } = await pair();
  native.set_busy_poll(1000, isOneOfMany);
  stream.start();
  client.write('request');
  await happens('it arrives', () => results.length === 1);
  await new Promise((resolve) => setTimeout(resolve, 50));
  const before = process.cpuUsage();
  await new Promise((resolve) => setTimeout(resolve, 500));
  const { user, system } = process.cpuUsage(before);
  native.set_busy_poll(0, false);
  // Polling on would have taken all of it.
  expect(user + system).toBeLessThan(400_000);
});

test('one of many that poll leaves the processor to those who wait for one', async () => {
  const { client, stream, results } = await pair();
  // With this thread more than there are processors.
  for (let count = 0; count < availableParallelism(); count += 1) {
    const other = spawn('sh', ['-c', 'while :; do :; done'], { stdio: 'ignore' });
    defer(() => other.kill('SIGKILL'));
  }
  native.set_busy_poll(1_000_000, true);
  defer(() => native.set_busy_poll(0, false));
  stream.start();
  const before = process.cpuUsage();
  client.write('request');
  await happens('it arrives', () => results.length === 1);
  await new Promise((resolve) => setTimeout(resolve, 900));
  const { user, system } = process.cpuUsage(before);
  // A fair share of the processors would be 600 ms on two of them, and more on others.
  expect(user + system).toBeLessThan(250_000);
});

describe('knows the way to the other end', () => {
  test('of a Unix socket', async () => {
    const { stream } = await pair();
    expect(stream.route()).toBe(ROUTE_UNIX);
    stream.close();
    expect(stream.route()).toBe(-EBADF);
  });

  test.each([
    ['127.0.0.1', '127.0.0.1'],
    ['127.0.0.1', '127.0.0.2'],
    ['::1', '::1'],
  ])('listening on %s, connected from %s, and sends without pacing', async (address, from) => {
    const listening = native.listen_tcp(address, 0, 1);
    const accepted = new Promise<number>((resolve) => {
      const listener = new native.Listener(listening, resolve);
      defer(() => listener.close());
    });
    const client = net.connect({ port: native.local_port(listening), host: address, localAddress: from });
    defer(() => client.destroy());
    const stream = new native.StreamSocket(
      await accepted,
      Buffer.alloc(8),
      0,
      8,
      () => {},
      () => {},
    );
    defer(() => stream.close());
    expect(stream.route()).toBe(ROUTE_TCP_ON_THIS_HOST);
    const sockets = await run(['ss', '-Htin', `sport = :${native.local_port(listening)}`]);
    expect(sockets).toMatch(/\breno\b/);
  });
});
