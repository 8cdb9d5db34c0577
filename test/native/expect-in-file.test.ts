/** What a client sends goes to a file: every byte once and in its place, and what follows it nowhere near. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { ftruncateSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from 'node:fs';
import { expect, test } from 'vitest';
import { native, type StreamSocket } from '../../src/native/binding.ts';
import { EFBIG, ENODATA } from '../../src/native/errno.ts';
import { PYTHON } from '../support/python.ts';
import { randomNumbers } from '../support/random.ts';
import { happens, type Pair, pair } from './stream-pair.ts';
import { defer, EBADF, ENOSPC, KiB, MiB, openForTest, pattern, temporaryFile } from './support.ts';

const PAGE = 4 * KiB;

/** What the file has outside of the range. */
const BEFORE = '.'.charCodeAt(0);

interface Scene extends Pair {
  readonly path: string;
  readonly file: number;
}

/** A started StreamSocket, and a file of dots. */
async function scene(fileBytes: number): Promise<Scene> {
  const { path, fd: file } = temporaryFile();
  expect(native.pwritev2(file, Buffer.alloc(fileBytes, BEFORE), 0, fileBytes, 0, 0)).toBe(fileBytes);
  const ends = await pair();
  expect(ends.stream.start()).toBe(0);
  return { ...ends, path, file };
}

function send(client: Pair['client'], bytes: Buffer): Promise<void> {
  return new Promise((resolve) => {
    client.write(bytes, () => resolve());
  });
}

/** A file of dots with `bytes` in it at `offset`. */
function dotsWith(fileBytes: number, offset: number, bytes: Buffer): Buffer {
  const all = Buffer.alloc(fileBytes, BEFORE);
  bytes.copy(all, offset);
  return all;
}

/** vitest's own comparison of large buffers takes minutes. */
function expectFile(path: string, expected: Buffer): void {
  const found = readFileSync(path);
  expect(found.length).toBe(expected.length);
  expect(found.findIndex((byte, index) => byte !== expected[index])).toBe(-1);
}

test('pieces of any size go to any offset, and the bytes behind them where they usually go', async () => {
  const fileBytes = 4 * MiB;
  const { client, stream, path, file, received, results, byteCount } = await scene(fileBytes);
  const random = randomNumbers(1);
  const expected = Buffer.alloc(fileBytes, BEFORE);
  let total = 0;
  for (const [offset, length] of [
    [0, PAGE],
    [1, 70_001],
    [PAGE - 1, 2],
    [100_003, 3 * MiB + 511],
    [2 * MiB, 256 * KiB],
  ] as const) {
    const data = pattern(length, offset);
    data.copy(expected, offset);
    expect(stream.expect_in_file(file, offset, length, true)).toBe(true);
    const bytes = Buffer.concat([data, Buffer.from('header')]);
    for (let position = 0; position < bytes.length; ) {
      const piece = bytes.subarray(position, position + 1 + random(100_000));
      await send(client, piece);
      position += piece.length;
    }
    total += bytes.length;
    await happens('everything arrives', () => byteCount() === total);
    expect(received.at(-1)).toBe('header');
    expect(stream.file_state()).toBe(0);
    expectFile(path, expected);
  }
  expect(results.every((result) => result > 0)).toBe(true);
});

test('a part of a page waits for the rest, and what waits is given back when the file is left', async () => {
  const fileBytes = 4 * PAGE;
  const { client, stream, path, file, results, received, byteCount } = await scene(fileBytes);
  const data = pattern(10_000, 2);
  expect(stream.expect_in_file(file, 100, data.length, false)).toBe(true);
  await send(client, data.subarray(0, 5000));
  await happens('the first page is whole', () => byteCount() === PAGE - 100);
  expectFile(path, dotsWith(fileBytes, 100, data.subarray(0, PAGE - 100)));
  // Less than the second page: nobody is told.
  await send(client, data.subarray(5000, 8000));
  await happens('the client was heard', () => client.bytesWritten === 8000 && client.writableLength === 0);
  await new Promise((resolve) => setTimeout(resolve, 20));
  expect(results).toEqual([PAGE - 100]);
  const rest = Buffer.alloc(10_000, BEFORE);
  expect(stream.leave_file(rest, PAGE - 100, data.length - PAGE + 100)).toBe(8000 - PAGE + 100);
  expect(rest.equals(dotsWith(10_000, PAGE - 100, data.subarray(PAGE - 100, 8000)))).toBe(true);
  expectFile(path, dotsWith(fileBytes, 100, data.subarray(0, PAGE - 100)));
  expect(stream.leave_file(rest, 0, 10_000)).toBe(0);
  await send(client, Buffer.from('what follows'));
  await happens('the rest arrives', () => results.length === 2);
  expect(received.at(-1)).toBe('what follows');
});

test('pieces so small that no pipe has room for a page of them arrive all the same', async () => {
  const fileBytes = 2 * PAGE;
  const { client, stream, path, file, byteCount } = await scene(fileBytes);
  const data = pattern(PAGE + 10, 3);
  expect(stream.expect_in_file(file, 5, data.length, true)).toBe(true);
  for (let position = 0; position < data.length; position += 10) {
    await send(client, data.subarray(position, position + 10));
  }
  await happens('all of it is in the file', () => byteCount() === data.length);
  expectFile(path, dotsWith(fileBytes, 5, data));
});

test('a file that takes nothing is told of with all bytes of the piece, and what is behind it is received', async () => {
  const { client, stream, path, received, results, byteCount } = await scene(4 * PAGE);
  const readOnly = openForTest(path, 'r');
  const data = pattern(10_000, 4);
  expect(stream.expect_in_file(readOnly, 0, data.length, true)).toBe(true);
  await send(client, data.subarray(0, 5000));
  await happens('the failure is told', () => results.length === 1);
  expect(stream.file_state()).toBe(-EBADF);
  expect(results).toEqual([5000]);
  expect(stream.leave_file(Buffer.alloc(5000), 0, 5000)).toBe(0);
  await send(client, Buffer.from('behind it'));
  await happens('the rest arrives', () => byteCount() === 5009);
  expect(received.at(-1)).toBe('behind it');
  expectFile(path, Buffer.alloc(4 * PAGE, BEFORE));
});

test('a file that takes no splices is written all the same, and counts as one that had to wait', async () => {
  // Such are those in /proc; this one has a number.
  const path = '/proc/self/oom_score_adj';
  const before = readFileSync(path, 'latin1');
  defer(() => writeFileSync(path, before));
  const other = `${Number(before) === 1 ? 2 : 1}\n`;
  const { client, stream, results } = await scene(PAGE);
  expect(stream.expect_in_file(openForTest(path, 'r+'), 0, 2, false)).toBe(true);
  await send(client, Buffer.from(other));
  await happens('it is written', () => results.length === 1);
  expect(stream.file_state()).toBe(1);
  expect(results).toEqual([2]);
  expect(readFileSync(path, 'latin1')).toBe(other);
  // What it is told then comes from the ordinary write.
  expect(stream.expect_in_file(openForTest('/dev/full', 'r+'), 0, 2, false)).toBe(true);
  await send(client, Buffer.from(other));
  await happens('the failure is told', () => results.length === 2);
  expect(stream.file_state()).toBe(-ENOSPC);
  expect(results).toEqual([2, 2]);
});

test('what lies past the end of the file is not written where it must be inside', async () => {
  const { client, stream, path, file, results, byteCount } = await scene(2 * PAGE);
  const data = pattern(2 * PAGE, 5);
  expect(stream.expect_in_file(file, PAGE, data.length, true)).toBe(true);
  await send(client, data.subarray(0, PAGE));
  await happens('the first page is written', () => byteCount() === PAGE);
  expect(stream.file_state()).toBe(0);
  await send(client, data.subarray(PAGE));
  await happens('the end is told', () => byteCount() === 2 * PAGE);
  expect(stream.file_state()).toBe(-ENODATA);
  expect(results).toEqual([PAGE, PAGE]);
  expectFile(path, dotsWith(2 * PAGE, PAGE, data.subarray(0, PAGE)));
  expect(stream.expect_in_file(file, PAGE, data.length, false)).toBe(true);
  await send(client, data);
  await happens('it is written where it need not be inside', () => byteCount() === 4 * PAGE);
  expectFile(path, dotsWith(3 * PAGE, PAGE, data));
});

test('an error behind a part of a piece is told with all bytes of the piece', async ({ skip }) => {
  const { client, stream, file, received, results, byteCount } = await scene(PAGE);
  const end = largestFileBytes(file);
  if (end === undefined) skip('this file system has no end');
  const length = 4 * PAGE;
  stream.stop();
  expect(stream.expect_in_file(file, (end ?? 0) - 2 * PAGE, length, false)).toBe(true);
  await send(client, pattern(length, 6));
  stream.start();
  await happens('the failure is told', () => results.length === 1);
  expect(stream.file_state()).toBe(-EFBIG);
  expect(results).toEqual([length]);
  await send(client, Buffer.from('behind it'));
  await happens('the rest arrives', () => byteCount() === length + 9);
  expect(received.at(-1)).toBe('behind it');
});

/** Undefined when that is more than a number can tell. */
function largestFileBytes(file: number): number | undefined {
  const fits = (size: number): boolean => {
    try {
      ftruncateSync(file, size);
      return true;
    } catch {
      return false;
    }
  };
  let [possible, impossible] = [0, Number.MAX_SAFE_INTEGER];
  if (fits(impossible)) return undefined;
  while (impossible - possible > 1) {
    const size = possible + Math.floor((impossible - possible) / 2);
    [possible, impossible] = fits(size) ? [size, impossible] : [possible, size];
  }
  return possible;
}

test('the end of the stream and what was received before it come one after the other', async () => {
  const { client, stream, path, file, results } = await scene(4 * PAGE);
  const data = pattern(PAGE + 1000, 7);
  expect(stream.expect_in_file(file, 0, 4 * PAGE, true)).toBe(true);
  client.end(data);
  await happens('the end is told', () => results.includes(0));
  expect(results).toEqual([PAGE, 0]);
  expectFile(path, dotsWith(4 * PAGE, 0, data.subarray(0, PAGE)));
});

test.each<[string, (stream: StreamSocket) => void]>([
  ['expect_nothing', (stream) => stream.expect_nothing()],
  ['expect', (stream) => stream.expect(Buffer.alloc(1), 0, 0)],
  [
    'stop',
    (stream) => {
      stream.stop();
      stream.start();
    },
  ],
])('%s forgets what waits, and what comes then goes where it usually goes', async (_name, forget) => {
  const { client, stream, path, file, received, results } = await scene(4 * PAGE);
  const data = pattern(PAGE + 1000, 8);
  expect(stream.expect_in_file(file, 0, 3 * PAGE, true)).toBe(true);
  await send(client, data);
  await happens('the first page is written', () => results.length === 1);
  forget(stream);
  expect(stream.leave_file(Buffer.alloc(PAGE), 0, PAGE)).toBe(0);
  await send(client, Buffer.from('afterwards'));
  await happens('the rest arrives', () => results.length === 2);
  expect(received.at(-1)).toBe('afterwards');
  // A pipe that had something in it must not give that to the next range.
  expect(stream.expect_in_file(file, 2 * PAGE, PAGE, true)).toBe(true);
  await send(client, data.subarray(0, PAGE));
  await happens('the next range is written', () => results.length === 3);
  expectFile(
    path,
    Buffer.concat([
      data.subarray(0, PAGE),
      Buffer.alloc(PAGE, BEFORE),
      data.subarray(0, PAGE),
      Buffer.alloc(PAGE, BEFORE),
    ]),
  );
});

test('a socket that is closed in the middle leaves no pipe behind', async () => {
  const pipes = (): string[] =>
    readdirSync('/proc/self/fd').flatMap((fd) => {
      try {
        const target = readlinkSync(`/proc/self/fd/${fd}`);
        return target.startsWith('pipe:') ? [target] : [];
      } catch {
        return [];
      }
    });
  const before = new Set(pipes());
  const grown = (): string[] => pipes().filter((target) => !before.has(target));
  const { client, stream, file, results } = await scene(4 * PAGE);
  expect(stream.expect_in_file(file, 0, 3 * PAGE, true)).toBe(true);
  await send(client, pattern(PAGE + 1000, 9));
  await happens('the first page is written', () => results.length === 1);
  stream.close();
  await happens('the pipe is closed', () => grown().length === 0);
});

test('urgent data, which is in no pipe, holds nothing up', async () => {
  const { path, fd: file } = temporaryFile();
  const listening = native.listen_tcp('127.0.0.1', 0, 1);
  const port = native.local_port(listening);
  const accepted = new Promise<number>((resolve) => {
    const listener = new native.Listener(listening, (descriptor) => {
      listener.close();
      resolve(descriptor);
    });
  });
  const script = `
import socket
s = socket.create_connection(('127.0.0.1', ${port}))
s.sendall(b'a' * 5000)
s.send(b'!', socket.MSG_OOB)
s.sendall(b'b' * 5000)
s.recv(1)
`;
  const client = spawn(PYTHON, ['-c', script], { stdio: 'inherit' });
  const fd = await accepted;
  let byteCount = 0;
  const stream = new native.StreamSocket(
    fd,
    Buffer.alloc(1),
    0,
    1,
    (result) => {
      byteCount += Math.max(result, 0);
    },
    () => {},
  );
  defer(() => stream.close());
  expect(stream.expect_in_file(file, 0, 10_000, false)).toBe(true);
  stream.start();
  await happens('all but the urgent byte is in the file', () => byteCount === 10_000);
  stream.close();
  await once(client, 'exit');
  expectFile(path, Buffer.concat([Buffer.alloc(5000, 'a'), Buffer.alloc(5000, 'b')]));
});

test('a limit holds where bytes usually go, and only there', async () => {
  const { client, stream, path, file, received, byteCount } = await scene(2 * PAGE);
  stream.stop();
  stream.limit(7);
  await send(client, Buffer.from('0123456789abcdef'));
  stream.start();
  await happens('all bytes arrive', () => byteCount() === 16);
  expect(received).toEqual(['0123456', '789abcd', 'ef']);
  const payload = Buffer.alloc(1000);
  stream.stop();
  stream.expect(payload, 0, 1000);
  await send(client, Buffer.concat([Buffer.alloc(1000, 'p'), Buffer.from('behind the payload')]));
  stream.start();
  await happens('payload and what is behind it arrive', () => byteCount() === 1034);
  expect(payload.equals(Buffer.alloc(1000, 'p'))).toBe(true);
  // What is told counts both.
  expect(received.slice(4)).toEqual(['the pay', 'load']);
  const data = pattern(2 * PAGE, 10);
  expect(stream.expect_in_file(file, 0, data.length, true)).toBe(true);
  await send(client, data);
  await happens('the file is written', () => byteCount() === 1034 + data.length);
  expectFile(path, data);
  const count = received.length;
  stream.stop();
  stream.limit(0);
  await send(client, Buffer.from('all of it at once'));
  stream.start();
  await happens('the rest arrives', () => received.length > count);
  expect(received.slice(count)).toEqual(['all of it at once']);
});

test('arguments that are none are refused, and a closed socket does nothing', async () => {
  const { stream, file } = await scene(PAGE);
  const none = undefined as unknown as number;
  expect(() => stream.expect_in_file(none, 0, 1, true)).toThrow(TypeError);
  expect(() => stream.expect_in_file(file, -1, 1, true)).toThrow(RangeError);
  expect(() => stream.expect_in_file(file, 0, 0.5, true)).toThrow(RangeError);
  expect(() => stream.expect_in_file(file, 0, 1, 1 as unknown as boolean)).toThrow(TypeError);
  expect(() => stream.leave_file(Buffer.alloc(4), 2, 3)).toThrow(RangeError);
  expect(() => stream.leave_file('text' as unknown as Buffer, 0, 0)).toThrow(TypeError);
  expect(() => stream.limit(-1)).toThrow(RangeError);
  expect(() => stream.limit(none)).toThrow(TypeError);
  stream.close();
  expect(stream.expect_in_file(file, 0, 1, true)).toBe(false);
  expect(stream.leave_file(Buffer.alloc(4), 0, 4)).toBe(0);
  expect(stream.file_state()).toBe(0);
  stream.expect_nothing();
  stream.limit(1);
});
