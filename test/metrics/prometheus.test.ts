import { expect, test } from 'vitest';
import { renderPrometheus } from '../../src/metrics/prometheus.ts';
import { commandsWith, EXPORT, fakeStatus } from './fake-status.ts';

/** The samples by their names and labels. */
async function samples(...args: Parameters<typeof fakeStatus>): Promise<Map<string, number>> {
  const text = await renderPrometheus(fakeStatus(...args));
  const lines = text.split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => {
      const space = line.lastIndexOf(' ');
      return [line.slice(0, space), Number(line.slice(space + 1))];
    }),
  );
}

test('every family has a help and a type, once', async () => {
  const text = await renderPrometheus(fakeStatus());
  const helps = [...text.matchAll(/^# HELP (\S+) \S/gm)].map(([, name]) => name);
  const types = [...text.matchAll(/^# TYPE (\S+) (?:counter|gauge|histogram)$/gm)].map(([, name]) => name);
  expect(helps).toEqual(types);
  expect(new Set(helps).size).toBe(helps.length);
  const families = new Set(
    [...(await samples()).keys()].map((name) => name.replace(/\{.*/, '').replace(/_(bucket|sum|count)$/, '')),
  );
  expect(families).toEqual(new Set(helps));
});

test('the numbers are those of the status', async () => {
  const found = await samples({ commands: commandsWith('write', 5, 4096) });
  expect(Object.fromEntries(found)).toMatchObject({
    'nbd_serve_info{version="1.2.3"}': 1,
    nbd_serve_connections_total: 7,
    nbd_serve_connections: 2,
    nbd_serve_connections_refused_total: 1,
    'nbd_serve_requests_total{command="write"}': 5,
    'nbd_serve_requests_total{command="block_status"}': 0,
    'nbd_serve_request_bytes_total{command="write"}': 4096,
    'nbd_serve_errors_total{errno="EIO"}': 2,
    'nbd_serve_errors_total{errno="ENOSPC"}': 0,
    nbd_serve_windows_written_total: 30,
    nbd_serve_windows_waited_total: 20,
    nbd_serve_windows_evicted_total: 10,
    'nbd_serve_export_size_bytes{export="disk"}': 2 ** 30,
    'nbd_serve_export_resident_bytes{export="disk"}': 3 * 2 ** 28,
    'nbd_serve_export_latched{export="disk"}': 0,
    nbd_serve_event_loop_delay_p99_seconds: 0.002,
    nbd_serve_event_loop_busy_seconds_total: 12.5,
    process_cpu_seconds_total: 20.25,
    process_start_time_seconds: 1_799_999_900,
  });
});

test('a histogram is cumulative', async () => {
  const found = await samples({ commands: commandsWith('read', 5, 4096) });
  const name = 'nbd_serve_request_duration_seconds';
  expect(found.get(`${name}_bucket{command="read",le="0.000002"}`)).toBe(0);
  expect(found.get(`${name}_bucket{command="read",le="0.000004"}`)).toBe(5);
  expect(found.get(`${name}_bucket{command="read",le="33.554432"}`)).toBe(5);
  expect(found.get(`${name}_bucket{command="read",le="+Inf"}`)).toBe(5);
  expect(found.get(`${name}_count{command="read"}`)).toBe(5);
  expect(found.get(`${name}_sum{command="read"}`)).toBeCloseTo(15e-6, 12);
});

test('an export that lost data is latched; what is not known is left out', async () => {
  const found = await samples({
    exports: [
      { ...EXPORT, name: 'a"b\\c\n', lossCount: 3, residency: null },
      { ...EXPORT, name: 'ram', lossCount: null, residency: null },
    ],
    loopDelay: null,
  });
  const label = 'export="a\\"b\\\\c\\n"';
  expect(found.get(`nbd_serve_export_latched{${label}}`)).toBe(1);
  expect(found.get(`nbd_serve_export_losses_total{${label}}`)).toBe(3);
  expect([...found.keys()].filter((name) => name.includes('ram'))).toEqual([
    'nbd_serve_export_size_bytes{export="ram"}',
  ]);
  expect([...found.keys()].some((name) => name.includes('delay'))).toBe(false);
});
