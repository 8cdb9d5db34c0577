/** `--threads`: the threads that serve beside the main one, started before anything listens. */
import { availableParallelism } from 'node:os';
import { THREAD_COUNT_DEFAULT_MAX } from '../limits.ts';
import { native } from '../native/binding.ts';
import type { ExportSource } from '../plugins/export-source.ts';
import { ServingThreads } from '../server/threads.ts';
import { CommandError } from './command-error.ts';
import type { LoadedTls } from './load-tls.ts';
import type { ServingOptions } from './serving-options.ts';

/**
 * For exports that know several threads. Four connections, to the same with one thread: memory 1.2 to 1.5; a cached file
 * over TCP 64 KiB mixed 1.31, 1 MiB WRITEs 1.27, 256 KiB READs 1.08, over a Unix socket 1.15, 1.11 and 1.0, but 256 KiB WRITEs
 * 0.90; 4 KiB READs 0.95, and 1.4 times the processor time (2 cores shared with the client, 2026-11). With `--cache none` each
 * would have half the windows.
 */
export function defaultThreads({ filter }: Pick<ServingOptions, 'filter'>): number {
  return filter.length > 0 ? 1 : Math.min(availableParallelism(), THREAD_COUNT_DEFAULT_MAX);
}

/** Threads that will serve, the main one included. */
export function threadCountOf({ threads, threadsDefault = 1 }: ServingOptions): number {
  return threads ?? threadsDefault;
}

/**
 * Undefined when the main thread serves alone. Those that were asked for are waited for; others come when they can, 0.1 s
 * later, and the main thread serves meanwhile.
 */
export async function startThreads(
  options: ServingOptions,
  source: ExportSource,
  tls: LoadedTls | undefined,
  writeLog: (line: string) => void,
): Promise<ServingThreads | undefined> {
  const threadCount = threadCountOf(options);
  if (threadCount === 1) {
    return undefined;
  }
  const exports = source.shared?.();
  if (exports === undefined) {
    throw new CommandError('This export can be served by one thread only: leave --threads out');
  }
  const material = tls?.credentials.material;
  const threads = new ServingThreads({
    threadCount,
    exports,
    isTiming: options.metrics !== undefined,
    logLevel: options.logLevel,
    handshakeSeconds: options.handshakeTimeout,
    busyPollMicroseconds: options.busyPoll,
    tls: tls && material && { mode: tls.mode, material },
    log: { write: writeLog },
  });
  if (options.threads !== undefined) {
    await ready(threads);
  }
  if (tls !== undefined && tls.credentials.material !== material) {
    // Read again while the threads started.
    threads.setTls(tls.credentials.material);
  }
  return threads;
}

async function ready(threads: ServingThreads): Promise<void> {
  try {
    await threads.ready;
  } catch (error) {
    await threads.terminate();
    throw error;
  }
}

/** The threads of a server, for whoever ends the process. */
export class ThreadsInUse {
  started: ServingThreads | undefined;

  /**
   * Ends the process when threads run that process.exit would wait for: after a deadline, a second signal or the
   * death of one of them; or when it must not wait for libuv's pool either. Everything that is to be told must have
   * been told.
   */
  exitNow(code: number, mustNotWait: boolean): void {
    if (mustNotWait || this.started?.isRunning === true) {
      native.exit_now(code);
    }
  }
}
