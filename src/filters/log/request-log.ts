/** Where the filter `log` writes: the server's own log, or a file of its own. */
import { createWriteStream, openSync } from 'node:fs';
import { pino } from 'pino';
import type { Logger } from '../../log.ts';
import { FilterError } from '../filter-error.ts';

export interface RequestLog {
  readonly log: Pick<Logger, 'info'>;
  /** Resolves when everything is written, or cannot be. */
  close(): Promise<void>;
}

/**
 * Opens a file for appending lines of JSON as the server's log has them. Throws a FilterError when it cannot; when
 * writing fails later, `failed` is told once, and requests go on.
 */
export function openLogFile(path: string, failed: (error: Error) => void): RequestLog {
  let fd: number;
  try {
    fd = openSync(path, 'a');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw new FilterError(`Filter "log" cannot write "${path}": ${code ?? error}`);
  }
  // Not pino's own destination: on a full disk its last flush tries again for ever (sonic-boom 4.2).
  const file = createWriteStream(path, { fd });
  file.on('error', failed);
  return {
    log: pino({ base: null }, file),
    close: () =>
      new Promise((resolve) => {
        file.end(() => {
          resolve();
        });
      }),
  };
}
