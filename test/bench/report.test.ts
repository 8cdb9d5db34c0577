import { expect, test } from 'vitest';
import { chartOption } from './chart.ts';
import type { FioCell } from './matrices.ts';
import type { CellResult, MatrixResult, Run } from './measure.ts';
import { describeMatrix, describeMeans, judge } from './report.ts';

const CELL: FioCell = {
  client: 'fio',
  name: '4k-read-d32-c1',
  pattern: 'read',
  isRandom: true,
  blockSize: 4096,
  depth: 32,
  connections: 1,
};

function run(operations: number, cpuSeconds = 1): Run {
  return { operations, bytes: operations * 4096, seconds: 1, cpuSeconds, p99: 0.25 };
}

const RESULT: CellResult = {
  cell: CELL,
  contests: [
    { server: 'nbd-serve', runs: [run(300_000), run(30_000), run(300_000)] },
    { server: 'nbdkit', runs: [run(200_000), run(20_000), run(200_000)] },
    { server: 'qemu-nbd', runs: [run(100_000, 0.25), run(10_000, 0.025), run(100_000, 0.25)] },
    { server: 'nbd-server', runs: [], failure: 'fio had an error (errno 5)' },
    { server: 'floor', runs: [run(400_000), run(40_000), run(400_000)] },
  ],
};

const MATRIX: MatrixResult = {
  matrix: { name: 'file-default-unix', target: 'file', cache: 'default', transport: 'unix' },
  cells: [RESULT],
};

test('a cell is judged by the fastest peer, the floor, and the cheapest peer', () => {
  expect(judge(RESULT, 'nbd-serve')).toMatchObject({ bestPeer: 'nbdkit', toBestPeer: 1.5, toFloor: 0.75 });
  // 4.76 us for an operation of ours, 2.5 of qemu-nbd's.
  expect(judge(RESULT, 'nbd-serve')?.cpuToCheapestPeer).toBeCloseTo(1.905, 3);
});

test('without peers there is no ratio to them', () => {
  const alone = {
    ...RESULT,
    contests: RESULT.contests.filter(({ server }) => /nbd-serve$|floor/.test(server)),
  };
  expect(judge(alone, 'nbd-serve')).toMatchObject({ toBestPeer: undefined, toFloor: 0.75 });
  expect(judge(alone, 'nbd-serve of elsewhere')).toBeUndefined();
});

test('the tables name what failed and where we lose', () => {
  expect(describeMatrix(MATRIX)).toContain(
    '| 4k-read-d32-c1 | 300.0 k/s ± 45 % | 200.0 k/s ± 45 % | 100.0 k/s ± 45 % | failed | 400.0 k/s ± 45 % | **1.50** | 0.75 |',
  );
  const means = describeMeans([MATRIX]);
  expect(means).toContain('| nbd-serve | file-default-unix | 1 | 1.50 | 1.90 | 0.75 |');
  expect(means).toContain('file-default-unix/4k-read-d32-c1: nbd-server: fio had an error (errno 5)');
  expect(means).not.toContain('Slower than the best peer');
  const slower = {
    ...RESULT,
    contests: RESULT.contests.map((each) => ({ ...each, server: renamed(each.server) })),
  };
  expect(describeMeans([{ ...MATRIX, cells: [slower] }])).toContain(
    '- file-default-unix/4k-read-d32-c1: 0.67 of nbdkit',
  );
});

function renamed(server: string): string {
  return { 'nbd-serve': 'nbdkit', nbdkit: 'nbd-serve' }[server] ?? server;
}

test('a chart shows each server as a multiple of the best peer', () => {
  const { series } = chartOption(MATRIX, '') as { series: { name: string; data: (number | null)[] }[] };
  expect(series.map(({ name, data }) => [name, ...data])).toEqual([
    ['nbd-serve', 1.5],
    ['nbdkit', 1],
    ['qemu-nbd', 0.5],
    ['nbd-server', null],
    ['floor', 2],
  ]);
});
