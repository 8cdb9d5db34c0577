import { expect, test } from 'vitest';
import { parseFio } from './clients.ts';

function direction(operations: number, runtime: number, p99: number) {
  const percentile = { '99.000000': p99 * 1e6, '99.900000': 2 * p99 * 1e6 };
  return { total_ios: operations, io_bytes: operations * 4096, runtime, clat_ns: { percentile } };
}

const IDLE = { total_ios: 0, io_bytes: 0, runtime: 0, clat_ns: {} };

function report(job: object): string {
  return `fio: connected to NBD server\n${JSON.stringify({ jobs: [{ error: 0, ...job }] }, null, 2)}`;
}

test('a mix counts both directions, and the slower one of them for time', () => {
  const output = report({ read: direction(100, 500, 1), write: direction(50, 400, 3) });
  expect(parseFio(output)).toEqual({
    operations: 150,
    bytes: 150 * 4096,
    seconds: 0.5,
    p99: 3,
    p999: 6,
  });
});

test('a job with an error counts for nothing', () => {
  expect(() => parseFio(report({ error: 5, read: direction(100, 500, 1), write: IDLE }))).toThrow('errno 5');
});

test('a job that did nothing is a failure: fio reports no error when it cannot connect', () => {
  expect(() => parseFio(report({ read: IDLE, write: IDLE }))).toThrow('did nothing');
});
