/** `--threads`: the threads that serve, started before anything listens. */
import { native } from '../native/binding.ts';
import type { ExportSource } from '../plugins/export-source.ts';
import { ServingThreads } from '../server/threads.ts';
import { CommandError } from './command-error.ts';
import type { LoadedTls } from './load-tls.ts';
import type { ServingOptions } from './serving-options.ts';

/** Undefined when one thread is to serve: the main thread. */
export async function startThreads(
  options: ServingOptions,
  source: ExportSource,
  tls: LoadedTls | undefined,
  writeLog: (line: string) => void,
): Promise<ServingThreads | undefined> {
  if (options.threads === 1) {
    return undefined;
  }
  const exports = source.shared?.();
  if (exports === undefined) {
    throw new CommandError('This export can be served by one thread only: leave --threads out');
  }
  const material = tls?.credentials.material;
  const threads = await ServingThreads.start({
    threadCount: options.threads,
    exports,
    isTiming: options.metrics !== undefined,
    logLevel: options.logLevel,
    handshakeSeconds: options.handshakeTimeout,
    busyPollMicroseconds: options.busyPoll,
    tls: tls && material && { mode: tls.mode, material },
    log: { write: writeLog },
  });
  if (tls !== undefined && tls.credentials.material !== material) {
    // Read again while the threads started.
    threads.setTls(tls.credentials.material);
  }
  return threads;
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
