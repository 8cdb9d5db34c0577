/** Results as tables: what each cell says about our server, and the means over all cells. */

import { FLOOR } from './floor.ts';
import type { CellResult, Contest, MatrixResult, Run } from './measure.ts';
import { geometricMean, median, pairedRatio, spread, table } from './statistics.ts';

const MIB = 1024 * 1024;
/** From this block size on bytes count, below it operations. */
const BYTES_COUNT_FROM = 64 * 1024;

/** Operations or MiB a second. */
export function rateOf(cell: CellResult['cell'], run: Run): number {
  return (countsBytes(cell) ? run.bytes / MIB : run.operations) / run.seconds;
}

export function countsBytes({ blockSize }: CellResult['cell']): boolean {
  return blockSize >= BYTES_COUNT_FROM;
}

export interface Verdict {
  readonly name: string;
  readonly server: string;
  readonly bestPeer: string | undefined;
  /** Of our throughput to that of the best peer, or to the floor. */
  readonly toBestPeer: number | undefined;
  readonly toFloor: number | undefined;
  /** Of our CPU time for an operation to the smallest of any peer. */
  readonly cpuToCheapestPeer: number | undefined;
}

/** Our servers are those whose names begin so; all others but the floor are peers. */
export const OURS = 'nbd-serve';

export function isOurs(name: string): boolean {
  return name === OURS || name.startsWith(`${OURS} `);
}

export function isPeer(name: string): boolean {
  return !isOurs(name) && name !== FLOOR;
}

/** How `server` does in a cell. Undefined when it has no result. */
export function judge({ cell, contests }: CellResult, server: string): Verdict | undefined {
  const ratesOf = (contest: Contest): number[] => contest.runs.map((run) => rateOf(cell, run));
  const done = contests.filter(({ runs }) => runs.length > 0);
  const ours = done.find((contest) => contest.server === server);
  if (ours === undefined) {
    return undefined;
  }
  const peers = done
    .filter((contest) => isPeer(contest.server))
    .sort((one, other) => median(ratesOf(other)) - median(ratesOf(one)));
  const floor = done.find((contest) => contest.server === FLOOR);
  const [best] = peers;
  return {
    name: cell.name,
    server,
    bestPeer: best?.server,
    toBestPeer: best && pairedRatio(ratesOf(ours), ratesOf(best)),
    toFloor: floor && pairedRatio(ratesOf(ours), ratesOf(floor)),
    cpuToCheapestPeer: best && cpuPerOperation(ours) / Math.min(...peers.map(cpuPerOperation)),
  };
}

/** Microseconds. All runs together: the kernel counts in hundredths of a second. */
export function cpuPerOperation({ runs }: Contest): number {
  const sum = (pick: (run: Run) => number): number => runs.reduce((total, run) => total + pick(run), 0);
  return (sum((run) => run.cpuSeconds) * 1e6) / sum(({ operations }) => operations);
}

const digits = (value: number | undefined, count = 2): string =>
  value === undefined || !Number.isFinite(value) ? '-' : value.toFixed(count);

function rateText(cell: CellResult['cell'], value: number): string {
  return countsBytes(cell) ? `${value.toFixed(0)} MiB/s` : `${(value / 1000).toFixed(1)} k/s`;
}

function middle(runs: readonly Run[], pick: (run: Run) => number | undefined): number | undefined {
  const values = runs.map(pick).filter((value) => value !== undefined);
  return values.length === 0 ? undefined : median(values);
}

export function serversIn({ cells }: MatrixResult): string[] {
  return [...new Set(cells.flatMap(({ contests }) => contests.map(({ server }) => server)))];
}

/** Throughput, then what it cost, a row for each cell. */
export function describeMatrix(result: MatrixResult): string {
  const servers = serversIn(result);
  const rates = result.cells.map((each) => {
    const verdict = judge(each, OURS);
    return [
      each.cell.name,
      ...servers.map((server) => rateCell(each, server)),
      `**${digits(verdict?.toBestPeer)}**`,
      digits(verdict?.toFloor),
    ];
  });
  const costs = result.cells.map((each) => [
    each.cell.name,
    ...servers.map((server) => costCell(each, server)),
    digits(judge(each, OURS)?.cpuToCheapestPeer),
  ]);
  return [
    `### ${result.matrix.name}`,
    'Throughput, ± half the spread of the runs:',
    table(['cell', ...servers, 'to the best peer', 'to the floor'], rates),
    'Server CPU time for an operation (us), p99 latency (ms), and delay of our event loop at p99 (ms):',
    table(['cell', ...servers, 'CPU to the cheapest peer'], costs),
  ].join('\n\n');
}

function contestOf({ contests }: CellResult, server: string): Contest | undefined {
  return contests.find((contest) => contest.server === server);
}

function rateCell(each: CellResult, server: string): string {
  const contest = contestOf(each, server);
  if (contest === undefined || contest.runs.length === 0) {
    return contest?.failure === undefined ? '-' : 'failed';
  }
  const rates = contest.runs.map((run) => rateOf(each.cell, run));
  return `${rateText(each.cell, median(rates))} ± ${(50 * spread(rates)).toFixed(0)} %`;
}

function costCell(each: CellResult, server: string): string {
  const contest = contestOf(each, server);
  if (contest === undefined || contest.runs.length === 0) {
    return '-';
  }
  const { runs } = contest;
  const delay = middle(runs, ({ loopDelay }) => loopDelay?.p99);
  return [
    digits(cpuPerOperation(contest), 1),
    digits(middle(runs, ({ p99 }) => p99)),
    ...(delay === undefined ? [] : [digits(delay)]),
  ].join(' / ');
}

/** Geometric means of the ratios, for each of our servers and matrices and over all; and where we do not win. */
export function describeMeans(results: readonly MatrixResult[]): string {
  const servers = [...new Set(results.flatMap(serversIn))].filter(isOurs);
  const rows = servers.flatMap((server) => {
    const groups = results.map((result) => [result.matrix.name, result.cells] as const);
    const all = ['all', results.flatMap(({ cells }) => cells)] as const;
    return [...groups, ...(groups.length > 1 ? [all] : [])].map(([name, cells]) =>
      meanRow(server, name, cells),
    );
  });
  const losses = results.flatMap(({ matrix, cells }) =>
    cells.flatMap((each) => {
      const { bestPeer, toBestPeer } = judge(each, OURS) ?? {};
      return toBestPeer !== undefined && toBestPeer < 1
        ? [`- ${matrix.name}/${each.cell.name}: ${digits(toBestPeer)} of ${bestPeer}`]
        : [];
    }),
  );
  const failures = results.flatMap(({ matrix, cells }) =>
    cells.flatMap(({ cell, contests }) =>
      contests.flatMap(({ server, failure }) =>
        failure === undefined ? [] : [`- ${matrix.name}/${cell.name}: ${server}: ${failure}`],
      ),
    ),
  );
  return [
    'Geometric means:',
    table(
      ['server', 'matrix', 'cells', 'to the best peer', '4k CPU to the cheapest peer', '4k d32 to the floor'],
      rows,
    ),
    ...(losses.length > 0 ? [`Slower than the best peer:\n\n${losses.join('\n')}`] : []),
    ...(failures.length > 0 ? [`Failed:\n\n${failures.join('\n')}`] : []),
  ].join('\n\n');
}

function meanRow(server: string, name: string, cells: readonly CellResult[]): string[] {
  const verdicts = cells.map((each) => judge(each, server)).filter((verdict) => verdict !== undefined);
  const mean = (pick: (verdict: Verdict) => number | undefined, only = /^/): string =>
    digits(
      geometricMean(
        verdicts
          .filter((verdict) => only.test(verdict.name))
          .map(pick)
          .filter((value) => value !== undefined),
      ),
    );
  return [
    server,
    name,
    String(verdicts.length),
    mean(({ toBestPeer }) => toBestPeer),
    mean(({ cpuToCheapestPeer }) => cpuToCheapestPeer, /^4k/),
    mean(({ toFloor }) => toFloor, /^4k-\w+-d32/),
  ];
}
