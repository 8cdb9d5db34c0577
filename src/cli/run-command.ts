/** `--run`: a command that uses the server, and whose end is the server's. */
import { spawn } from 'node:child_process';
import { SHUTDOWN_SECONDS_MAX } from '../limits.ts';
import type { Logger } from '../log.ts';
import type { ListeningSocket } from './listen.ts';
import { exitStatusOf } from './stop-reasons.ts';

export interface RunningCommand {
  /** Its exit status, as a shell tells it; never rejects. */
  readonly ended: Promise<number>;
  /** Sends the signal to a command that has not ended, and SIGKILL when that does not end it in time. */
  stop(signal: NodeJS.Signals): void;
}

/** Shell variables of nbdkit-captive(1). What does not apply is empty. */
export function commandVariables(
  sockets: readonly ListeningSocket[],
  exportName: string,
): Record<string, string> {
  const uri = sockets[0]?.uri ?? '';
  return {
    uri,
    nbd: uri,
    unixsocket: sockets.find(({ path }) => path !== undefined)?.path ?? '',
    port: String(sockets.find(({ port }) => port !== undefined)?.port ?? ''),
    exportname: exportName,
  };
}

/** Runs it through the shell, with our standard streams. */
export function runCommand(
  command: string,
  variables: Readonly<Record<string, string>>,
  log: Logger,
): RunningCommand {
  const child = spawn('/bin/sh', ['-c', command], {
    env: { ...process.env, ...variables },
    stdio: 'inherit',
  });
  let timer: NodeJS.Timeout | undefined;
  const ended = new Promise<number>((resolve) => {
    child.once('error', (error) => {
      log.error({ err: error }, 'The command cannot be run');
      // What a shell says of a command that is not there.
      resolve(127);
    });
    child.once('exit', (code, signal) => {
      clearTimeout(timer);
      resolve(signal === null ? (code ?? 0) : exitStatusOf(signal));
    });
  });
  return {
    ended,
    stop: (signal) => {
      if (child.exitCode === null && child.signalCode === null) {
        child.kill(signal);
        timer = setTimeout(() => child.kill('SIGKILL'), SHUTDOWN_SECONDS_MAX * 1000);
      }
    },
  };
}
