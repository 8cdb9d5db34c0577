import { expect, test } from 'vitest';
import { activityBetween, isDurable, pageTexts } from '../../../src/metrics/page/view.ts';
import { commandsWith, EXPORT, fakeStatus } from '../fake-status.ts';

const MiB = 1024 * 1024;

test('rates are those between two statuses, or since the start', () => {
  const before = fakeStatus({ uptimeSeconds: 90, commands: commandsWith('read', 100, 50 * MiB) });
  const now = fakeStatus({ uptimeSeconds: 100, commands: commandsWith('read', 600, 150 * MiB) });
  expect(activityBetween(now, before)).toMatchObject({
    seconds: 10,
    readBytesPerSecond: 10 * MiB,
    writtenBytesPerSecond: 0,
    requestsPerSecond: 50,
  });
  expect(activityBetween(now, undefined)).toMatchObject({ seconds: 100, requestsPerSecond: 6 });
  const texts = pageTexts(now, before);
  expect(texts.get('read-rate')).toBe('10.0 MiB/s');
  expect(texts.get('period')).toBe('over the last 10 s');
  expect(texts.get('latency-median')).toBe('median 2.83 µs');
  expect(texts.get('read-p99')).toBe('3.97 µs');
  expect(texts.get('read-mean')).toBe('3.00 µs');
  expect(texts.get('write-mean')).toBe('–');
  expect(pageTexts(now, undefined).get('period')).toBe('since the start');
});

test('errors are told by their names', () => {
  const texts = pageTexts(fakeStatus({ errors: { EIO: 2, EINVAL: 0, ENOSPC: 1 } }), undefined);
  expect(texts.get('errors')).toBe('3');
  expect(texts.get('error-kinds')).toBe('EIO 2, ENOSPC 1');
  expect(pageTexts(fakeStatus({ errors: { EIO: 0 } }), undefined).get('error-kinds')).toBe('none so far');
});

test('what is resident and what is lost is told of each export', () => {
  const status = fakeStatus({
    exports: [EXPORT, { ...EXPORT, lossCount: 2, residency: null }, { ...EXPORT, lossCount: null, size: 0 }],
  });
  const texts = pageTexts(status, undefined);
  expect(texts.get('export-0-resident')).toBe('768 MiB of 1.00 GiB resident (75 %)');
  expect(texts.get('export-1-resident')).toContain('not told');
  expect(texts.get('export-0-latch')).toContain('keep their promise');
  expect(texts.get('export-1-latch')).toContain('2 errors cost acknowledged data');
  expect(texts.get('durability')).toBe('Acknowledged data lost');
  expect(isDurable(status)).toBe(false);
  expect(isDurable(fakeStatus())).toBe(true);
});
