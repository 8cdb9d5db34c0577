/**
 * The sparse array of the memory plugin, without the network: four threads straight on it, in mixes of reads,
 * writes and trims. How threads are kept apart is what differs: a mutex, a reader-writer lock with restart, a
 * lock for each table with unlocked reads, and the pins that the plugin has. Runs are interleaved; prints a
 * Markdown table of medians, the ratios to the mutex being medians of the ratios of each repeat, or JSON:
 * `npm run bench:sparse-array -- --help`.
 */
import { once } from 'node:events';
import { cpus } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import type { Worker } from 'node:worker_threads';
import { Command } from '@commander-js/extra-typings';
import { typescriptWorker } from '../support/typescript-worker.ts';
import { attachScheme, createScheme, SCHEMES } from './sparse-array/schemes.ts';
import type { Run, WorkerSetup } from './sparse-array/worker.ts';
import { median, table } from './statistics.ts';

const THREAD_COUNT = 4;
const MIB = 1024 * 1024;
const SIZE = 512 * MIB;

const MIXES = [
  { name: '80/10/10', readPercent: 80, writePercent: 10 },
  { name: '20/40/40', readPercent: 20, writePercent: 40 },
];
const BLOCKS = [64 * 1024, 4096];

class Threads {
  readonly #workers: readonly Worker[];
  readonly #control: Int32Array;

  constructor(schemes: WorkerSetup['schemes']) {
    const control = new SharedArrayBuffer(8);
    this.#control = new Int32Array(control);
    this.#workers = Array.from({ length: THREAD_COUNT }, (_, index) => {
      const workerData: WorkerSetup = { schemes, control, seed: index + 1 };
      return typescriptWorker(new URL('./sparse-array/worker.ts', import.meta.url), workerData);
    });
  }

  /** Operations per second of all threads together. */
  async run(run: Run, milliseconds: number): Promise<number> {
    const counts = this.#workers.map(async (worker) => {
      worker.postMessage(run);
      const [count] = (await once(worker, 'message')) as [number];
      return count;
    });
    while (Atomics.load(this.#control, 0) < THREAD_COUNT) {
      await delay(1);
    }
    Atomics.store(this.#control, 0, 0);
    const begin = performance.now();
    Atomics.store(this.#control, 1, 1);
    Atomics.notify(this.#control, 1);
    await delay(milliseconds);
    const seconds = (performance.now() - begin) / 1000;
    Atomics.store(this.#control, 1, 0);
    const total = (await Promise.all(counts)).reduce((sum, count) => sum + count, 0);
    return total / seconds;
  }

  async stop(): Promise<void> {
    await Promise.all(this.#workers.map((worker) => worker.terminate()));
  }
}

const program = new Command('npm run bench:sparse-array --')
  .description('Measures the locks of the RAM disk, below the network.')
  .option('--quick', 'a few short runs', false)
  .option('--json', 'print all figures as JSON', false);

async function main({ quick: isQuick, json }: ReturnType<typeof program.opts>): Promise<void> {
  const repeats = isQuick ? 2 : 9;
  const milliseconds = isQuick ? 100 : 300;
  const schemes = SCHEMES.map((scheme) => createScheme(scheme, SIZE));
  for (const scheme of schemes) {
    // Every other page: where the mixes, with as many trims as writes, go by themselves.
    const array = attachScheme(scheme);
    const page = Buffer.alloc(64 * 1024, 1);
    for (let offset = 0; offset < SIZE; offset += 2 * page.length) {
      array.write(page, page.length, offset);
    }
  }
  const threads = new Threads(schemes);
  const cells = MIXES.flatMap((mix) => BLOCKS.map((blockBytes) => ({ mix, blockBytes })));
  const rates = new Map<string, number[]>();
  // The first round warms up: the code, the pools, and the memory of the system.
  for (let repeat = -1; repeat < repeats; repeat += 1) {
    for (const { mix, blockBytes } of cells) {
      for (const scheme of SCHEMES.keys()) {
        const rate = await threads.run({ ...mix, scheme, size: SIZE, blockBytes }, milliseconds);
        const key = `${mix.name} ${blockBytes} ${scheme}`;
        if (repeat >= 0) {
          rates.set(key, [...(rates.get(key) ?? []), rate]);
        }
      }
    }
  }
  await threads.stop();
  const results = cells.flatMap(({ mix, blockBytes }) =>
    SCHEMES.map((name, scheme) => {
      const own = rates.get(`${mix.name} ${blockBytes} ${scheme}`) ?? [];
      const mutex = rates.get(`${mix.name} ${blockBytes} 0`) ?? [];
      return {
        mix: mix.name,
        blockBytes,
        scheme: name,
        operationsPerSecond: median(own),
        ratio: median(own.map((rate, index) => rate / (mutex[index] ?? Number.NaN))),
      };
    }),
  );
  const machine = `${cpus().length} x ${cpus()[0]?.model.trim()}, Node ${process.version}, ${THREAD_COUNT} threads`;
  if (json) {
    process.stdout.write(`${JSON.stringify({ machine, repeats, milliseconds, results }, null, 2)}\n`);
    return;
  }
  const rows = results.map(({ mix, blockBytes, scheme, operationsPerSecond, ratio }) => [
    mix,
    `${blockBytes / 1024} KiB`,
    scheme,
    (operationsPerSecond / 1000).toFixed(0),
    `${ratio.toFixed(2)}x`,
  ]);
  process.stdout.write(`${machine}; medians of ${repeats}\n\n`);
  process.stdout.write(`${table(['read/write/trim', 'block', 'scheme', 'k/s', 'to mutex'], rows)}\n`);
}

await main(program.parse().opts());
