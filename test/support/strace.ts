import { readdir, readFile } from 'node:fs/promises';
import { eventually } from './polling.ts';

/** What runs a server under strace, which watches from aside: the server stays the child that gets the signals. */
export function straceTo(log: string, ...options: readonly string[]): [string, ...string[]] {
  return [
    'strace',
    '-D',
    '-f',
    '-o',
    log,
    '-e',
    'signal=none',
    '-e',
    'quiet=path-resolution,attach',
    ...options,
  ];
}

/** Lets system calls on one file fail, as strace's inject= describes it: `fdatasync:error=EIO`. */
export function faults(log: string, path: string, ...injections: readonly string[]): [string, ...string[]] {
  const calls = injections.map((injection) => injection.split(':')[0]).join();
  const inject = injections.flatMap((injection) => ['-e', `inject=${injection}`]);
  return straceTo(log, '-P', path, '-e', `trace=${calls}`, ...inject);
}

/** The calls that have begun, in order, by name; from a log that may still be written to. */
export async function callsIn(log: string, names: readonly string[]): Promise<string[]> {
  const found: string[] = [];
  for (const line of (await readFile(log, 'utf8')).split('\n')) {
    // Descriptor 2: the log is flushed at the end, with fsync.
    const [, name] = /^\d+ +(\w+)\((?!2\))/.exec(line) ?? [];
    if (name !== undefined && names.includes(name)) found.push(name);
  }
  return found;
}

/** The same when the server has ended, and strace with it. */
export async function callsUntilEnd(log: string, names: readonly string[]): Promise<string[]> {
  await eventually('strace has ended', async () => ((await isTraced(log)) ? undefined : true));
  return callsIn(log, names);
}

/** True while a strace is there that writes this log: only the one that ended has written everything. */
async function isTraced(log: string): Promise<boolean> {
  const processes = (await readdir('/proc')).filter((name) => /^\d+$/.test(name));
  const commands = await Promise.all(
    processes.map((pid) => readFile(`/proc/${pid}/cmdline`, 'utf8').catch(() => '')),
  );
  return commands.some((command) => command.split('\0').includes(log));
}
