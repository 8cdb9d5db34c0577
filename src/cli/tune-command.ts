/** `nbd-serve tune <file>`: which windows suit `--cache none` on this disk. */
import { constants } from 'node:os';
import { Command, Option } from '@commander-js/extra-typings';
import {
  TUNE_REPEAT_COUNT_MAX,
  TUNE_SCRATCH_BYTES_MAX,
  WINDOW_BYTES_DEFAULT,
  WINDOW_BYTES_MAX,
  WINDOW_COUNT_DEFAULT,
  WINDOW_COUNT_MAX,
} from '../limits.ts';
import { FileRefusedError } from '../plugins/file/open-file.ts';
import { formatSize } from '../units/size.ts';
import { integerBetween, listOf, sizeBetween } from './argument-parsers.ts';
import { CommandError } from './command-error.ts';
import { print } from './print.ts';
import { openScratch } from './tune/measure.ts';
import { preparePlot } from './tune/plot.ts';
import { Progress } from './tune/progress.ts';
import { recommend } from './tune/recommend.ts';
import { jsonReport, type SweepReport, table } from './tune/report.ts';
import { ScratchFile } from './tune/scratch-file.ts';
import { type Setting, settingsOf } from './tune/setting.ts';
import { sweep, sweepBytes } from './tune/sweep.ts';
import { type Pattern, SCRATCH_UNIT_BYTES, type Workload, workloadOf } from './tune/workload.ts';

const KIB = 1024;
const MIB = 1024 * KIB;
const PAGE_BYTES = 4096;

/** Around the defaults, which are always among them. */
const WINDOW_COUNTS = withDefault([2, 4, 8, 16], WINDOW_COUNT_DEFAULT);
const WINDOW_SIZES = withDefault([256 * KIB, MIB, 4 * MIB], WINDOW_BYTES_DEFAULT);

const HELP = `
It writes a scratch file without a name in the directory of <file>, or in <file> when that is a directory; <file>
itself is never written, and nothing is left behind however the command ends. Sequential are writes of 64K at
depth 16, random ones of 4K at depth 32. Every run writes the whole size and ends with a flush that counts.
Columns: durable throughput (median), spread between the slowest and the fastest run, 99th percentile of the
time of a request, highest residency in the page cache, and what is left there after the file is closed.
Recommended is, among the settings within 5 % of the best throughput of --cache none, the one with the smallest
peak; of equals, the fastest.`;

interface TuneOptions {
  readonly size: number;
  readonly pattern: Pattern;
  readonly windows: readonly number[];
  readonly windowSize: readonly number[];
  readonly repeat: number;
  readonly json: boolean;
  readonly plot: string | undefined;
}

/** `finish` gets the exit code. */
export function tuneCommand(finish: (code: number) => void) {
  return new Command('tune')
    .description('measure on the disk of a file which --windows and --window-size suit --cache none there')
    .argument('<file>', 'an image, or a directory, on the disk to measure')
    .addOption(
      new Option('--size <size>', 'bytes of the scratch file, rounded down to 64K')
        .argParser(sizeBetween(MIB, TUNE_SCRATCH_BYTES_MAX))
        .default(1024 * MIB, '1G'),
    )
    .addOption(
      new Option('--pattern <pattern>', 'how to write')
        .choices(['sequential', 'random'] as const)
        .default('sequential' as const),
    )
    .addOption(
      new Option('--windows <counts>', 'window counts to try, between commas')
        .argParser(listOf(integerBetween(1, WINDOW_COUNT_MAX)))
        .default(WINDOW_COUNTS, WINDOW_COUNTS.join()),
    )
    .addOption(
      new Option('--window-size <sizes>', 'window sizes to try, between commas')
        .argParser(listOf(sizeBetween(PAGE_BYTES, WINDOW_BYTES_MAX)))
        .default(WINDOW_SIZES, WINDOW_SIZES.map(formatSize).join()),
    )
    .option('--repeat <count>', 'runs of each setting', integerBetween(1, TUNE_REPEAT_COUNT_MAX), 3)
    .option('--json', 'print one JSON object in place of the table', false)
    .option('--plot <file>', 'draw throughput against peak residency into an SVG file')
    .addHelpText('after', HELP)
    .action(async (file, options) => {
      finish(await untilSignal((signal) => tune(file, { ...options, plot: options.plot }, signal)));
    });
}

/** Returns the exit code. */
async function tune(file: string, options: TuneOptions, signal: AbortSignal): Promise<number> {
  const settings = settingsOf(options.windows, options.windowSize);
  const size = options.size - (options.size % SCRATCH_UNIT_BYTES);
  const workload = workloadOf(options.pattern, size);
  const scratch = ScratchFile.create(file);
  let report: SweepReport;
  let plot: ((report: SweepReport) => Promise<void>) | undefined;
  try {
    await assertUsable(scratch, settings);
    scratch.assertSpaceFor(size);
    plot = options.plot === undefined ? undefined : await preparePlot(options.plot, file);
    report = await sweepWithProgress(scratch, settings, workload, options.repeat, signal);
  } finally {
    await scratch.close();
  }
  print(options.json ? `${JSON.stringify(jsonReport(report), null, 2)}\n` : table(report));
  await plot?.(report);
  return 0;
}

/** Refuses, before anything is written, where `--cache none` cannot work. */
async function assertUsable(scratch: ScratchFile, settings: readonly Setting[]): Promise<void> {
  for (const setting of settings) {
    try {
      await (await openScratch(scratch, setting)).close();
    } catch (error) {
      throw error instanceof FileRefusedError
        ? new CommandError(error.message.replaceAll(scratch.path, scratch.directory))
        : error;
    }
  }
}

async function sweepWithProgress(
  scratch: ScratchFile,
  settings: readonly Setting[],
  workload: Workload,
  repeatCount: number,
  signal: AbortSignal,
): Promise<SweepReport> {
  signal.throwIfAborted();
  const progress = new Progress(sweepBytes(settings, workload, repeatCount));
  const stop = (): void => {
    progress.stop();
  };
  // At once: the process may end before the sweep does.
  signal.addEventListener('abort', stop);
  try {
    const results = await sweep(scratch, {
      settings,
      workload,
      repeatCount,
      signal,
      onProgress: (what, bytes) => {
        progress.add(what, bytes);
      },
    });
    return {
      directory: scratch.directory,
      workload,
      repeatCount,
      results,
      recommendation: recommend(results),
    };
  } finally {
    signal.removeEventListener('abort', stop);
    stop();
  }
}

/**
 * The exit code of `work`, or 128 and the number of the signal that came first, as shells count. It does not wait
 * for writes under way then: the scratch file has no name, and is gone with the process. A second signal has its
 * default action.
 */
async function untilSignal(work: (signal: AbortSignal) => Promise<number>): Promise<number> {
  const stopped = new AbortController();
  let interrupt: (name: NodeJS.Signals) => void = () => {};
  const interrupted = new Promise<number>((resolve) => {
    interrupt = (name) => {
      stopped.abort(new CommandError(`Stopped by ${name}`));
      process.stderr.write(`nbd-serve: Stopped by ${name}\n`);
      resolve(128 + constants.signals[name]);
    };
  });
  process.once('SIGINT', interrupt).once('SIGTERM', interrupt);
  try {
    return await Promise.race([interrupted, work(stopped.signal)]);
  } finally {
    process.off('SIGINT', interrupt).off('SIGTERM', interrupt);
  }
}

function withDefault(values: readonly number[], value: number): readonly number[] {
  return [...new Set([...values, value])].sort((one, other) => one - other);
}
