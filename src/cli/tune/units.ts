/** Numbers of a sweep for people: plain, in the units of the table's head. */
import type { Result } from './sweep.ts';

const MIB = 1024 * 1024;

export function mebibytes(bytes: number): string {
  return (bytes / MIB).toFixed(1);
}

/** MiB per second. */
export function throughput({ bytesPerSecond }: Pick<Result, 'bytesPerSecond'>): string {
  return (bytesPerSecond / MIB).toFixed(bytesPerSecond < 10 * MIB ? 2 : 0);
}

/** Percent of the median between the slowest and the fastest run. */
export function spreadPercent({ runs, bytesPerSecond }: Result): number {
  return (100 * (Math.max(...runs) - Math.min(...runs))) / bytesPerSecond;
}
