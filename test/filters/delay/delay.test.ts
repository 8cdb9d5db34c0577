/** Which requests are held back, and how long. */
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { FakePlugin } from '../../server/fake-plugin.ts';
import { filtered } from '../stack.ts';

beforeEach(() => {
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout', 'performance'] });
});

afterEach(() => {
  vi.useRealTimers();
});

test('each command has its own time, and requests wait beside each other', async () => {
  const inner = new FakePlugin('immediate');
  const plugin = await filtered(inner, [
    'delay:read=10ms,write=20ms,flush=30ms,trim=40ms,zero=50ms,cache=60ms,extents=70ms',
  ]);
  const handle = await plugin.open();
  const begin = performance.now();
  const times: number[] = [];
  const works = [
    () => handle.read(Buffer.alloc(100), 0, 100, 0),
    () => handle.read(Buffer.alloc(100), 0, 100, 0),
    () => handle.write(Buffer.alloc(100), 0, 100, 0, true),
    () => handle.flush(),
    () => handle.trim(0, 100, false),
    () => handle.zero(0, 100, { mayPunch: true, isFast: false }, false),
    () => handle.cache(0, 100),
    () => handle.extents(0, 100, false),
  ].map(async (work, index) => {
    await work();
    times[index] = performance.now() - begin;
  });
  expect(inner.handle.calls).toEqual([]);
  await vi.advanceTimersByTimeAsync(1000);
  await Promise.all(works);
  expect(times.map(Math.round)).toEqual([10, 10, 20, 30, 40, 50, 60, 70]);
  expect(handle.readNow, 'no way around it').toBeUndefined();
  expect(handle.writeNow).toBeUndefined();
  await handle.close();
});
