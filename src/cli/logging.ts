/** The log on standard error: JSON lines for programs, or text for people. */
import { destination, type Logger as PinoLogger, pino } from 'pino';
import { prettyFactory } from 'pino-pretty';
import type { ServingOptions } from './serving-options.ts';

const LAST_LINES_MS = 1000;

/** Bytes of lines that wait for a reader of standard error; further ones are dropped, or memory would follow them. */
const WAITING_BYTES_MAX = 8 * 1024 * 1024;

export interface Logging {
  readonly log: PinoLogger;
  /** Takes a line of another thread's logger, as JSON. */
  write(line: string): void;
  /**
   * Writes the last lines; later ones are dropped. When nobody takes them, they are lost after a second, and nothing
   * else is. False when a write of them is still under way: the process cannot exit in order before it is done.
   */
  end(): Promise<boolean>;
}

export function openLog({ logLevel, logFormat }: Pick<ServingOptions, 'logLevel' | 'logFormat'>): Logging {
  // Not synchronous: a reader of stderr that has stopped must not stop the event loop.
  const stderr = destination({ fd: 2, sync: false, maxLength: WAITING_BYTES_MAX });
  let isBroken = false;
  stderr.on('error', () => {
    // EPIPE, or ENOSPC where it leads to a file: there is nobody left to tell.
    isBroken = true;
  });
  const lines = logFormat === 'json' ? stderr : prettyLines(stderr);
  return {
    log: pino({ level: logLevel, base: null }, lines),
    write: (line) => void lines.write(line),
    end: async () => {
      const isDone = isBroken || (await ended(stderr));
      stderr.destroy();
      return isDone;
    },
  };
}

/** Not flushSync, which tries again for ever when the disk is full (sonic-boom 4.2), as pino's hook at exit would. */
function ended(stderr: ReturnType<typeof destination>): Promise<boolean> {
  return new Promise((resolve) => {
    const timer = setTimeout(() => resolve(false), LAST_LINES_MS);
    for (const event of ['close', 'error']) {
      stderr.once(event, () => {
        clearTimeout(timer);
        resolve(true);
      });
    }
    stderr.end();
    // Other threads and connections may still have something to say, which sonic-boom would throw at them.
    stderr.write = () => true;
  });
}

/** In this thread and line by line: a worker or a stream in between would lose the last lines at exit. */
function prettyLines(stderr: ReturnType<typeof destination>): { write(line: string): void } {
  const pretty = prettyFactory({
    colorize: process.stderr.isTTY,
    translateTime: 'SYS:yyyy-mm-dd HH:MM:ss.l',
    singleLine: true,
  });
  return {
    write: (line) => {
      stderr.write(pretty(line) ?? line);
    },
  };
}
