/** The rule behind the recommendation, and the words that go with it. */
import { expect, test } from 'vitest';
import { recommend } from '../../../src/cli/tune/recommend.ts';
import type { Setting } from '../../../src/cli/tune/setting.ts';
import type { Result } from '../../../src/cli/tune/sweep.ts';

const MIB = 1024 * 1024;

function result(setting: Setting, throughput: number, peak: number, runs = [throughput]): Result {
  return {
    setting,
    runs: runs.map((run) => run * MIB),
    bytesPerSecond: throughput * MIB,
    p99Ms: 1,
    peakResidentBytes: peak * MIB,
    leftResidentBytes: setting.cache === 'none' ? 0 : peak * MIB,
  };
}

function windows(windowCount: number): Setting {
  return { cache: 'none', windowCount, windowBytes: MIB };
}

const BASELINE = result({ cache: 'default' }, 5000, 1024);

test('takes the smallest peak within 5 % of the best throughput', () => {
  const results = [
    BASELINE,
    result(windows(1), 900, 2),
    result(windows(2), 951, 4),
    result(windows(4), 1000, 8),
  ];
  const { result: chosen, reason } = recommend(results);
  expect(chosen).toBe(results[2]);
  expect(reason).toContain('smallest peak of the 2 settings within 5 %');
  expect(reason).toContain('1000 MiB/s with --cache none --windows 4 --window-size 1M');
  expect(reason).toContain('81 % slower than --cache default, which leaves 1024.0 MiB behind');
});

test('takes the fastest of those with the same peak', () => {
  const results = [
    BASELINE,
    result(windows(1), 960, 4),
    result(windows(2), 990, 4),
    result(windows(4), 1000, 8),
  ];
  expect(recommend(results).result).toBe(results[2]);
});

test('says so when nothing comes close, and when the fastest is the smallest', () => {
  const alone = [BASELINE, result(windows(1), 500, 1), result(windows(4), 6000, 8)];
  expect(recommend(alone).reason).toContain('No other setting comes within 5 % of its 6000 MiB/s');
  expect(recommend(alone).reason).toContain('20 % faster than');
  const much = [BASELINE, result(windows(1), 15_000, 1)];
  expect(recommend(much).reason).toContain('3.0 times as fast as --cache default');
  const both = [BASELINE, result(windows(1), 5000, 1), result(windows(4), 4999, 8)];
  expect(recommend(both).reason).toContain('It is the fastest');
  expect(recommend(both).reason).toContain('as fast as');
});

test('never recommends the baseline', () => {
  const results = [BASELINE, result(windows(1), 1, 2000)];
  expect(recommend(results).result).toBe(results[1]);
});

test('doubts itself when the runs of one setting differ much', () => {
  expect(recommend([BASELINE, result(windows(1), 100, 1, [90, 100, 130])]).reason).toContain(
    'differed by 40 %',
  );
  expect(recommend([BASELINE, result(windows(1), 100, 1, [95, 100, 105])]).reason).not.toContain('differed');
  expect(recommend([BASELINE, result(windows(1), 100, 1)]).reason).toContain(
    'One run of each setting says little',
  );
});
