import { performance } from 'node:perf_hooks';
import { afterEach, expect, test, vi } from 'vitest';
import {
  NBD_CMD_CACHE,
  NBD_CMD_DISC,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_WRITE,
  NBD_EINVAL,
  NBD_EIO,
} from '../../src/protocol/constants.ts';
import {
  COMMANDS,
  Counters,
  LATENCY_BOUNDS,
  sumCounters,
  TIMED_INTERVAL,
} from '../../src/server/counters.ts';

afterEach(() => {
  vi.restoreAllMocks();
});

/** Counts one request of `command` that takes this long. */
function takeTime(counters: Counters, command: number, seconds: number): void {
  const now = vi.spyOn(performance, 'now');
  now.mockReturnValueOnce(1000).mockReturnValueOnce(1000 + seconds * 1000);
  counters.answered(command, 0, counters.startTime(command));
  now.mockRestore();
}

function total(numbers: readonly number[]): number {
  return numbers.reduce((sum, number) => sum + number, 0);
}

test('counters start at zero, with every command and every error value of the protocol', () => {
  const sums = sumCounters([new Counters(true).memory]);
  expect(Object.keys(sums.commands)).toEqual([...COMMANDS]);
  expect(Object.keys(sums.errors)).toEqual([
    'EPERM',
    'EIO',
    'ENOMEM',
    'EINVAL',
    'ENOSPC',
    'EOVERFLOW',
    'ENOTSUP',
    'ESHUTDOWN',
  ]);
  expect(total(Object.values(sums.errors))).toBe(0);
  expect(sums.commands.read).toEqual({
    requests: 0,
    bytes: 0,
    seconds: 0,
    buckets: LATENCY_BOUNDS.map(() => 0).concat(0),
  });
});

test('counters of several threads add up, and a copy over the same memory sees the same numbers', () => {
  const one = new Counters(false);
  const other = new Counters(false, new Counters(false).memory);
  for (const counters of [one, other]) {
    counters.connectionOpened();
    counters.answered(NBD_CMD_READ, 4096, 0);
    counters.answered(NBD_CMD_WRITE, 2 ** 40, 0);
    counters.failed(NBD_CMD_WRITE, NBD_EIO, 0);
    counters.countWindows(3, 2, 1);
  }
  one.connectionClosed();
  other.connectionRefused();
  const sums = sumCounters([one.memory, other.memory]);
  expect(sums).toMatchObject({
    connectionsOpened: 2,
    connectionsClosed: 1,
    connectionsRefused: 1,
    windowsWritten: 6,
    windowsWaited: 4,
    windowsEvicted: 2,
    commands: { read: { requests: 2, bytes: 8192 }, write: { requests: 4, bytes: 2 * 2 ** 40 } },
    errors: { EIO: 2, EINVAL: 0 },
  });
});

test('what is no command that is answered counts as unknown', () => {
  const counters = new Counters(false);
  for (const command of [NBD_CMD_DISC, 8, 0xffff]) {
    counters.failed(command, NBD_EINVAL, 0);
  }
  const sums = sumCounters([counters.memory]);
  expect(sums.commands.unknown.requests).toBe(3);
  expect(sums.errors['EINVAL']).toBe(3);
  expect(total(Object.values(sums.commands).map(({ requests }) => requests))).toBe(3);
});

test.each([
  [0, 0],
  [1e-6, 0],
  [1.1e-6, 1],
  [1.999e-6, 1],
  [2.001e-6, 2],
  [3.999e-6, 2],
  [1e-3, 10],
  [33.5, 25],
  [33.6, 26],
  [1e6, 26],
])('a latency of %f s falls into bucket %i', (seconds, bucket) => {
  const counters = new Counters(true);
  takeTime(counters, NBD_CMD_FLUSH, seconds);
  const { buckets, seconds: sum } = sumCounters([counters.memory]).commands.flush;
  expect(buckets.indexOf(1)).toBe(bucket);
  expect(total(buckets)).toBe(1);
  expect(sum).toBeCloseTo(seconds, 9);
  expect(seconds).toBeLessThanOrEqual((LATENCY_BOUNDS[bucket] ?? Number.POSITIVE_INFINITY) + 1e-12);
});

test('of READs and WRITEs one in so many is timed, the first one always; of the others each', () => {
  const counters = new Counters(true);
  for (let index = 0; index < 2 * TIMED_INTERVAL + 1; index += 1) {
    counters.answered(NBD_CMD_READ, 512, counters.startTime(NBD_CMD_READ));
    counters.answered(NBD_CMD_CACHE, 512, counters.startTime(NBD_CMD_CACHE));
  }
  const { read, cache } = sumCounters([counters.memory]).commands;
  expect(read.requests).toBe(2 * TIMED_INTERVAL + 1);
  expect(total(read.buckets)).toBe(3);
  expect(total(cache.buckets)).toBe(2 * TIMED_INTERVAL + 1);
});

test('counters that nobody wants latencies of leave the clock alone', () => {
  const now = vi.spyOn(performance, 'now');
  const counters = new Counters(false);
  counters.answered(NBD_CMD_FLUSH, 0, counters.startTime(NBD_CMD_FLUSH));
  expect(now).not.toHaveBeenCalled();
  expect(sumCounters([counters.memory]).commands.flush.requests).toBe(1);
});
