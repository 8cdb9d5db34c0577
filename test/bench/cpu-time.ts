/** How much CPU time a server has used, with all its threads and the processes it has forked. */
import { readdir, readFile } from 'node:fs/promises';

/** The kernel counts for user space in hundredths of a second on every platform (USER_HZ, time(7)). */
const TICKS_PER_SECOND = 100;

interface ProcessTimes {
  readonly pid: number;
  readonly parent: number;
  readonly ownTicks: number;
  /** Of children that have ended and were waited for. */
  readonly childTicks: number;
}

/** A line of /proc/PID/stat (proc(5)). */
export function parseStat(line: string): ProcessTimes {
  // The name in parentheses may contain anything, parentheses too.
  const fields = line.slice(line.lastIndexOf(')') + 2).split(' ');
  const field = (number: number): number => Number(fields[number - 3]);
  return {
    pid: Number.parseInt(line, 10),
    parent: field(4),
    ownTicks: field(14) + field(15),
    childTicks: field(16) + field(17),
  };
}

/** User and system time of a process and its descendants so far. */
export async function cpuSeconds(pid: number): Promise<number> {
  const lines = await Promise.all(
    (await readdir('/proc'))
      .filter((name) => /^\d+$/.test(name))
      // Gone since the directory was read.
      .map((name) => readFile(`/proc/${name}/stat`, 'utf8').catch(() => undefined)),
  );
  const processes = lines.filter((line) => line !== undefined).map(parseStat);
  const ticksOf = (times: ProcessTimes): number =>
    processes
      .filter(({ parent }) => parent === times.pid)
      .reduce((sum, child) => sum + ticksOf(child), times.ownTicks + times.childTicks);
  const root = processes.find((times) => times.pid === pid);
  if (root === undefined) {
    throw new Error(`The server (process ${pid}) has ended`);
  }
  return ticksOf(root) / TICKS_PER_SECOND;
}
