/** A benchmark that is told to stop ends its servers and removes its files first. */
import { constants } from 'node:os';

/** Aborted by the signals of Ctrl-C, kill and a closed terminal. */
export function stopSignal(): AbortSignal {
  const stopped = new AbortController();
  for (const signal of ['SIGINT', 'SIGTERM', 'SIGHUP'] as const) {
    process.on(signal, () => {
      stopped.abort(new Error(`Stopped by ${signal}`));
      // What a shell would say of a process that the signal has ended.
      process.exitCode = 128 + constants.signals[signal];
    });
  }
  return stopped.signal;
}

/** One line for people, and the exit code of a failure or of the signal. */
export function reportFailure(error: unknown): void {
  process.stderr.write(`bench: ${error instanceof Error ? error.message : String(error)}\n`);
  process.exitCode ??= 1;
}
