/**
 * Runs every setting several times and sums up. The repeats are interleaved, each round beginning with another
 * setting: what else the machine does, and a disk that grows tired, then hits all settings alike.
 */
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import { errnoName } from '../../native/errno.ts';
import { BackendError } from '../../plugins/backend-error.ts';
import { CommandError } from '../command-error.ts';
import { measure, type Run } from './measure.ts';
import type { ScratchFile } from './scratch-file.ts';
import { optionsOf, type Setting } from './setting.ts';
import { median } from './statistics.ts';
import { type Workload, workloadOf } from './workload.ts';

export interface SweepOptions {
  readonly settings: readonly Setting[];
  readonly workload: Workload;
  readonly repeatCount: number;
  readonly signal: AbortSignal;
  /** What is going on, and bytes written since the last call. */
  readonly onProgress: (what: string, bytes: number) => void;
}

/** What a setting costs and yields. */
export interface Result {
  readonly setting: Setting;
  /** Bytes per second of each run, in order of time; durable at the end of each. */
  readonly runs: readonly number[];
  /** Median of the runs. */
  readonly bytesPerSecond: number;
  /** Milliseconds, of the requests of all runs. */
  readonly p99Ms: number;
  /** Highest of all runs, in bytes. */
  readonly peakResidentBytes: number;
  readonly leftResidentBytes: number;
}

/** Bytes that a sweep writes. */
export function sweepBytes(settings: readonly Setting[], workload: Workload, repeatCount: number): number {
  return (1 + settings.length * repeatCount) * workload.count * workload.requestBytes;
}

/** In order of `settings`. Rejects with a CommandError, or with the reason of `signal`. */
export async function sweep(scratch: ScratchFile, options: SweepOptions): Promise<Result[]> {
  try {
    await layOut(scratch, options);
    const collected = options.settings.map((setting) => ({
      setting,
      runs: [] as Run[],
      latencies: createHistogram(),
    }));
    for (let round = 0; round < options.repeatCount; round += 1) {
      const first = Math.floor((round * collected.length) / options.repeatCount);
      for (const { setting, runs, latencies } of [...collected.slice(first), ...collected.slice(0, first)]) {
        runs.push(await runOnce(scratch, setting, options.workload, latencies, optionsOf(setting), options));
      }
    }
    return collected.map(({ setting, runs, latencies }) =>
      summarize(setting, runs, latencies, options.workload),
    );
  } catch (error) {
    throw error instanceof BackendError
      ? new CommandError(
          `Writing the scratch file in "${scratch.directory}" failed: ${error.operation}: ${errnoName(error.errno)}`,
        )
      : error;
  }
}

/** Writes all of it once, so that no run pays for the allocation of blocks, and the code is warm. */
async function layOut(scratch: ScratchFile, options: SweepOptions): Promise<void> {
  const { count, requestBytes } = options.workload;
  const size = count * requestBytes;
  scratch.resize(size);
  const workload = workloadOf('sequential', size);
  await runOnce(scratch, { cache: 'default' }, workload, createHistogram(), 'preparing', options);
}

async function runOnce(
  scratch: ScratchFile,
  setting: Setting,
  workload: Workload,
  latencies: RecordableHistogram,
  what: string,
  { signal, onProgress }: SweepOptions,
): Promise<Run> {
  signal.throwIfAborted();
  onProgress(what, 0);
  return measure(scratch, setting, workload, {
    signal,
    latencies,
    onWritten: (bytes) => {
      onProgress(what, bytes);
    },
  });
}

function summarize(
  setting: Setting,
  measured: readonly Run[],
  latencies: RecordableHistogram,
  { count, requestBytes }: Workload,
): Result {
  const runs = measured.map(({ seconds }) => (count * requestBytes) / seconds);
  return {
    setting,
    runs,
    bytesPerSecond: median(runs),
    p99Ms: latencies.percentile(99) / 1e6,
    peakResidentBytes: Math.max(...measured.map(({ peakResidentBytes }) => peakResidentBytes)),
    leftResidentBytes: Math.max(...measured.map(({ leftResidentBytes }) => leftResidentBytes)),
  };
}
