/** `--threads`: the threads that serve beside the main one. */
import { availableParallelism } from 'node:os';
import { THREAD_COUNT_DEFAULT_MAX } from '../limits.ts';
import type { Logger } from '../log.ts';
import { native } from '../native/binding.ts';
import type { ExportSource, SharedExport } from '../plugins/export-source.ts';
import { ServingThreads } from '../server/threads.ts';
import { CommandError } from './command-error.ts';
import type { LoadedTls } from './load-tls.ts';
import type { ServingOptions } from './serving-options.ts';

/**
 * For exports that gain from several threads: four connections to memory 1.2 to 1.5 times. A cached file does not, of which
 * READs are sent without a copy and whose writers wait for each other (docs/threads.md).
 */
export function defaultThreads({ filter }: Pick<ServingOptions, 'filter'>): number {
  return filter.length > 0 ? 1 : Math.min(availableParallelism(), THREAD_COUNT_DEFAULT_MAX);
}

/** Threads that will serve, the main one included. */
export function threadCountOf({ threads, threadsDefault = 1 }: ServingOptions): number {
  return threads ?? threadsDefault;
}

/** Those that were asked for, ready to serve; undefined when none was. */
export async function startThreads(
  options: ServingOptions,
  source: ExportSource,
  tls: LoadedTls | undefined,
  writeLog: (line: string) => void,
): Promise<ServingThreads | undefined> {
  if (options.threads === undefined || options.threads === 1) {
    return undefined;
  }
  const exports = source.shared?.();
  if (exports === undefined) {
    throw new CommandError('This export can be served by one thread only: leave --threads out');
  }
  const threads = createThreads(options, exports, tls, writeLog, false);
  const material = tls?.credentials.material;
  try {
    await threads.ready;
  } catch (error) {
    await threads.terminate();
    throw error;
  }
  if (tls !== undefined && tls.credentials.material !== material) {
    // Read again while the threads started.
    threads.setTls(tls.credentials.material);
  }
  return threads;
}

/**
 * Those that nobody asked for: they serve 0.1 s later, the main thread alone until then, and also when they cannot start.
 * For a server that listens, so that none is ended as it begins. Undefined when the main thread is to serve alone.
 */
export function startThreadsBehind(
  options: ServingOptions,
  source: ExportSource,
  tls: LoadedTls | undefined,
  writeLog: (line: string) => void,
  log: Logger,
): ServingThreads | undefined {
  const exports = source.shared?.();
  if (options.threads !== undefined || threadCountOf(options) === 1 || exports === undefined) {
    return undefined;
  }
  const alone = (err: unknown): void => {
    log.warn({ err }, 'Another thread cannot start; the main thread serves alone');
  };
  try {
    const threads = createThreads(options, exports, tls, writeLog, true);
    threads.ready.catch(alone);
    return threads;
  } catch (error) {
    alone(error);
    return undefined;
  }
}

function createThreads(
  options: ServingOptions,
  exports: readonly SharedExport[],
  tls: LoadedTls | undefined,
  writeLog: (line: string) => void,
  isOptional: boolean,
): ServingThreads {
  const material = tls?.credentials.material;
  return new ServingThreads({
    threadCount: threadCountOf(options),
    exports,
    isOptional,
    isTiming: options.metrics !== undefined,
    logLevel: options.logLevel,
    handshakeSeconds: options.handshakeTimeout,
    busyPollMicroseconds: options.busyPoll,
    tls: tls && material && { mode: tls.mode, material },
    log: { write: writeLog },
  });
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
