/**
 * A RAM disk that several threads hammer at once: `nbd-serve memory` beside nbdkit's memory plugin, each thread with
 * a connection of its own. `npm run bench:load -- --help`.
 */
import { once } from 'node:events';
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import { Worker } from 'node:worker_threads';
import { Command } from '@commander-js/extra-typings';
import { integerBetween, sizeBetween } from '../../src/cli/argument-parsers.ts';
import { Cleanup } from '../support/cleanup.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { cpuSeconds } from './cpu-time.ts';
import type { LoadResult } from './load-client.ts';
import { describeMix, type Mix, parseMix } from './load-mix.ts';
import type { LoadTask } from './load-worker.ts';
import { inTurn } from './measure.ts';
import { NBDKIT, nbdServe, PROGRAM, type Setup } from './peers.ts';
import { OURS } from './report.ts';
import { RunningPeer } from './running-peer.ts';
import { median, pairedRatio, spread, table } from './statistics.ts';
import { reportFailure, stopSignal } from './stop.ts';
import { describeSurroundings } from './surroundings.ts';

const KIB = 1024;
const BLOCK_SIZES = [4 * KIB, 64 * KIB];
const MIXES = ['80/10/10', '20/40/40'].map(parseMix);

function collect(text: string, before: readonly string[]): readonly string[] {
  return [...before, text];
}

const program = new Command('npm run bench:load --')
  .description('Measures nbd-serve memory beside nbdkit memory under mixed load, interleaved.')
  .option('--mix <reads/writes/trims>', 'percentages (default: 80/10/10, then 20/40/40)', parseMix)
  .option('--threads <count>', 'threads, with a connection each', integerBetween(1, 64), 4)
  .option('--depth <count>', 'requests in flight on each connection', integerBetween(1, 1024), 16)
  .option('--size <size>', 'of the RAM disk', sizeBetween(64 * KIB), 256 * KIB * KIB)
  .option('--milliseconds <count>', 'length of a run', integerBetween(50, 600_000), 1000)
  .option('--repeats <count>', 'runs of each', integerBetween(1, 1000), 5)
  .option('--program <main.js>', 'the nbd-serve to measure', PROGRAM)
  .option('--variant <options>', 'also nbd-serve with these options; repeatable', collect, []);

type Options = ReturnType<typeof program.opts>;

interface Run {
  readonly operations: number;
  readonly operationsPerSecond: number;
  readonly cpuSeconds: number;
  /** Milliseconds. */
  readonly p99: number;
}

async function hammer(server: RunningPeer, mix: Mix, blockSize: number, options: Options): Promise<Run> {
  const { threads, depth, size, milliseconds } = options;
  await using cleanup = new Cleanup();
  const workers = Array.from({ length: threads }, (_, index) => {
    const seconds = milliseconds / 1000;
    const task: LoadTask = { uri: server.uri, mix, blockSize, size, depth, seconds, seed: index + 1 };
    const worker = new Worker(new URL('./load-worker.mjs', import.meta.url), { workerData: task });
    cleanup.defer(() => worker.terminate());
    return worker;
  });
  // An error of a worker rejects the wait for its next message.
  await Promise.all(workers.map((worker) => once(worker, 'message')));
  const before = await cpuSeconds(server.pid);
  const results = await Promise.all(
    workers.map(async (worker) => {
      const done = once(worker, 'message');
      worker.postMessage('go');
      const [result] = await done;
      return result as LoadResult;
    }),
  );
  const cpu = (await cpuSeconds(server.pid)) - before;
  const operations = results.reduce((sum, result) => sum + result.operations, 0);
  const latencies: RecordableHistogram = createHistogram();
  for (const result of results) {
    latencies.add(result.latencies);
  }
  return {
    operations,
    operationsPerSecond: operations / Math.max(...results.map(({ seconds }) => seconds)),
    cpuSeconds: cpu,
    p99: latencies.percentile(99) / 1e6,
  };
}

function row(
  mix: Mix,
  blockSize: number,
  name: string,
  runs: readonly Run[],
  others: readonly Run[],
): string[] {
  const rates = runs.map(({ operationsPerSecond }) => operationsPerSecond);
  const cpu = runs.map((run) => (run.cpuSeconds * 1e6) / run.operations);
  return [
    describeMix(mix),
    `${blockSize / KIB}k`,
    name,
    (median(rates) / 1000).toFixed(1),
    `${(50 * spread(rates)).toFixed(0)} %`,
    pairedRatio(
      rates,
      others.map(({ operationsPerSecond }) => operationsPerSecond),
    ).toFixed(2),
    median(cpu).toFixed(1),
    median(runs.map(({ p99 }) => p99)).toFixed(2),
  ];
}

async function main(options: Options, signal: AbortSignal): Promise<void> {
  await using folder = await temporaryDirectory();
  await using cleanup = new Cleanup();
  const setup: Setup = {
    ...{ target: 'memory', cache: 'default', transport: 'unix', image: '', certificates: '' },
    size: options.size,
  };
  const peers = [
    nbdServe(OURS, options.program),
    ...options.variant.map((words) => nbdServe(`${OURS} ${words}`, options.program, words.split(/\s+/))),
    NBDKIT,
  ];
  const servers: { readonly name: string; readonly running: RunningPeer }[] = [];
  for (const peer of peers) {
    const running = await RunningPeer.start(peer, setup, folder.path);
    if (running !== undefined) {
      servers.push({ name: peer.name, running: cleanup.use(running) });
    }
  }
  const { text } = await describeSurroundings(folder.path);
  process.stdout.write(
    `${text}; ${options.threads} threads, ${options.depth} requests in flight each, ${options.repeats} runs\n\n`,
  );
  const rows: string[][] = [];
  for (const mix of options.mix === undefined ? MIXES : [options.mix]) {
    for (const blockSize of BLOCK_SIZES) {
      const runs = new Map<string, Run[]>(servers.map(({ name }) => [name, []]));
      for (let repeat = 0; repeat < options.repeats; repeat += 1) {
        for (const { name, running } of inTurn(servers, repeat)) {
          signal.throwIfAborted();
          runs.get(name)?.push(await hammer(running, mix, blockSize, options));
        }
      }
      const others = runs.get(NBDKIT.name) ?? [];
      rows.push(...[...runs].map(([name, each]) => row(mix, blockSize, name, each, others)));
    }
  }
  const header = ['read/write/trim', 'block', 'server', 'k/s', '±', 'to nbdkit', 'CPU us', 'p99 ms'];
  process.stdout.write(`${table(header, rows)}\n`);
}

try {
  await main(program.parse().opts(), stopSignal());
} catch (error) {
  reportFailure(error);
}
