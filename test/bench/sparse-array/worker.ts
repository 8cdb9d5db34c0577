/** One thread of the benchmark: it is told a mix, does it until it is stopped, and tells how much it did. */
import { parentPort, workerData } from 'node:worker_threads';
import { attachScheme, type SchemeData, type SharedArray } from './schemes.ts';

export interface WorkerSetup {
  readonly schemes: readonly SchemeData[];
  /** Two words: the number of threads that are ready, and 1 while they are to run. */
  readonly control: SharedArrayBuffer;
  readonly seed: number;
}

export interface Run {
  readonly scheme: number;
  readonly size: number;
  readonly blockBytes: number;
  /** Percentages; the rest is trimmed. */
  readonly readPercent: number;
  readonly writePercent: number;
}

/** Operations between two looks at whether to stop. */
const STRIDE = 16;

const { schemes, control, seed } = workerData as WorkerSetup;
const arrays = schemes.map(attachScheme);
const words = new Int32Array(control);
let state = seed;

function random(limit: number): number {
  state = (Math.imul(state, 1_664_525) + 1_013_904_223) >>> 0;
  return Math.floor((state / 2 ** 32) * limit);
}

function run(array: SharedArray, { size, blockBytes, readPercent, writePercent }: Run): number {
  const buffer = Buffer.alloc(blockBytes, seed);
  const blockCount = size / blockBytes;
  let count = 0;
  for (; Atomics.load(words, 1) === 1; count += STRIDE) {
    for (let step = 0; step < STRIDE; step += 1) {
      const offset = random(blockCount) * blockBytes;
      const dice = random(100);
      if (dice < readPercent) {
        array.read(buffer, blockBytes, offset);
      } else if (dice < readPercent + writePercent) {
        array.write(buffer, blockBytes, offset);
      } else {
        array.trim(blockBytes, offset);
      }
    }
  }
  return count;
}

parentPort?.on('message', (next: Run) => {
  const array = arrays[next.scheme];
  if (array === undefined) {
    throw new RangeError(`no scheme ${next.scheme}`);
  }
  Atomics.add(words, 0, 1);
  Atomics.wait(words, 1, 0);
  parentPort?.postMessage(run(array, next));
});
