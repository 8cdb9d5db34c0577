import { setTimeout as delay } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import { StatusCollector } from '../../src/metrics/status-collector.ts';
import type { Plugin } from '../../src/plugins/plugin.ts';
import { NBD_CMD_READ } from '../../src/protocol/constants.ts';
import { Counters } from '../../src/server/counters.ts';
import { FakeLog } from '../server/fake-log.ts';
import { FakePlugin } from '../server/fake-plugin.ts';

const SIZE = 4 * 64 * 1024;

/** A plugin of four cells; `residentBytes` decides what is resident. */
function pluginWith(residentBytes?: NonNullable<Plugin['residentBytes']>, lossCount?: number): Plugin {
  const plugin: Plugin = new FakePlugin('immediate', { size: SIZE });
  return Object.assign(plugin, {
    ...(residentBytes === undefined ? {} : { residentBytes }),
    ...(lossCount === undefined ? {} : { lossCount }),
  });
}

function collectorOf(plugins: readonly Plugin[], counters = new Counters(true)): StatusCollector {
  const exports = plugins.map((plugin, index) => ({ name: `disk-${index}`, description: '', plugin }));
  return new StatusCollector(
    { counterMemories: () => [counters.memory], exports: () => exports },
    new FakeLog(),
  );
}

let now = 1000;

beforeEach(() => {
  now = 1000;
  vi.spyOn(performance, 'now').mockImplementation(() => now);
});

afterEach(() => {
  vi.restoreAllMocks();
});

test('a status is put together once a second, however many ask', async () => {
  const residentBytes = vi.fn(async () => 4096);
  const counters = new Counters(true);
  const collector = collectorOf([pluginWith(residentBytes)], counters);
  const [first, same] = await Promise.all([collector.collect(), collector.collect()]);
  expect(same).toBe(first);
  expect(first.before).toBeUndefined();
  counters.answered(NBD_CMD_READ, 4096, 0);
  now += 999;
  expect(await collector.collect()).toBe(first);
  expect(residentBytes).toHaveBeenCalledTimes(4);
  now += 1;
  const second = await collector.collect();
  expect(second.now.commands['read']?.requests).toBe(1);
  expect(second.before).toBe(first.now);
  expect(residentBytes).toHaveBeenCalledTimes(8);
  await collector.close();
});

test('counting resident pages takes a tenth of the time at most', async () => {
  const residentBytes = vi.fn(async () => {
    now += 250;
    return 0;
  });
  const collector = collectorOf([pluginWith(residentBytes)]);
  await collector.collect();
  const calls = residentBytes.mock.calls.length;
  expect(calls).toBe(4);
  now += 8900;
  await collector.collect();
  expect(residentBytes).toHaveBeenCalledTimes(calls);
  now += 1000;
  await collector.collect();
  expect(residentBytes).toHaveBeenCalledTimes(2 * calls);
  await collector.close();
});

test('what an export cannot tell is null, and its errors go no further', async () => {
  const failing = pluginWith(async () => {
    throw new Error('cachestat fails');
  }, 2);
  const collector = collectorOf([pluginWith(), failing]);
  const { now: status } = await collector.collect();
  expect(status.exports).toMatchObject([
    { name: 'disk-0', size: SIZE, lossCount: null, residency: null },
    { name: 'disk-1', size: SIZE, lossCount: 2, residency: null },
  ]);
  await collector.close();
});

test('of very many exports some are shown, and the others are counted', async () => {
  const collector = collectorOf(Array.from({ length: 70 }, () => pluginWith()));
  const { now: status } = await collector.collect();
  expect(status.exports).toHaveLength(64);
  expect(status.hiddenExportCount).toBe(6);
  await collector.close();
});

test('the close waits for a count that is under way', async () => {
  let finish: () => void = () => {};
  const counting = new Promise<void>((resolve) => {
    finish = resolve;
  });
  const collector = collectorOf([
    pluginWith(async () => {
      await counting;
      return 0;
    }),
  ]);
  const collecting = collector.collect();
  let isClosed = false;
  const closing = collector.close().then(() => {
    isClosed = true;
  });
  await delay(5);
  expect(isClosed).toBe(false);
  finish();
  await closing;
  await collecting;
});
