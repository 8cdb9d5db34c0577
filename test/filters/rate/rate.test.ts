/** Which bytes count, and for whom. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FakePlugin } from '../../server/fake-plugin.ts';
import { filtered } from '../stack.ts';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
});

afterEach(() => {
  vi.useRealTimers();
});

/** Requests of a read and of a write, and the time in ms at which each one is answered. */
async function answerTimes(text: string): Promise<number[]> {
  const plugin = await filtered(new FakePlugin('immediate'), [text]);
  const [one, other] = [await plugin.open(), await plugin.open()];
  const begin = performance.now();
  const times: number[] = [];
  const works = [
    () => one.read(Buffer.alloc(1000), 0, 1000, 0),
    () => other.write(Buffer.alloc(1000), 0, 1000, 0, false),
    () => one.write(Buffer.alloc(2000), 0, 2000, 2000, true),
    () => one.flush(),
    () => other.zero(0, 10_000, { mayPunch: true, isFast: false }, false),
    () => other.trim(0, 10_000, false),
    () => other.cache(0, 10_000),
    () => other.extents(0, 10_000, false),
  ].map(async (work, index) => {
    await work();
    times[index] = Math.round(performance.now() - begin);
  });
  await vi.advanceTimersByTimeAsync(20_000);
  await Promise.all(works);
  return times;
}

test('rate is for all clients together, read and written', async () => {
  expect(await answerTimes('rate:1000,burst=1')).toEqual([999, 1999, 3999, 0, 0, 0, 0, 0]);
});

test('connection-rate is for each client', async () => {
  expect(await answerTimes('rate:connection-rate=1000,burst=500')).toEqual([500, 500, 2500, 0, 0, 0, 0, 0]);
});

test('both count', async () => {
  expect(await answerTimes('rate:2000,connection-rate=1000,burst=1')).toEqual([
    999, 999, 2999, 0, 0, 0, 0, 0,
  ]);
});

test('a bucket holds what a tenth of a second earns', async () => {
  expect(await answerTimes('rate:10000')).toEqual([0, 100, 300, 0, 0, 0, 0, 0]);
});
