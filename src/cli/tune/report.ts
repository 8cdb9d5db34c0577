/** The results of a sweep as a table and as JSON. */
import { formatSize } from '../../units/size.ts';
import { type Recommendation, THROUGHPUT_TOLERANCE } from './recommend.ts';
import { optionsOf, type Setting } from './setting.ts';
import type { Result } from './sweep.ts';
import { mebibytes, spreadPercent, throughput } from './units.ts';
import type { Workload } from './workload.ts';

export interface SweepReport {
  readonly directory: string;
  readonly workload: Workload;
  readonly repeatCount: number;
  readonly results: readonly Result[];
  readonly recommendation: Recommendation;
}

const COLUMNS = [
  'cache',
  'windows',
  'window-size',
  'MiB/s',
  'spread-%',
  'p99-ms',
  'peak-MiB',
  'left-MiB',
] as const;
const COLUMN_GAP = 2;

/** One line: what was measured. */
export function describeSweep({
  directory,
  workload,
  repeatCount,
}: Omit<SweepReport, 'results' | 'recommendation'>): string {
  const { pattern, requestBytes, depth, count } = workload;
  const runs = repeatCount === 1 ? '1 run' : `median of ${repeatCount} runs`;
  return `${formatSize(count * requestBytes)} of ${pattern} ${formatSize(requestBytes)} writes at depth ${depth} in ${directory}, ${runs}, flush included`;
}

export function table(report: SweepReport): string {
  const { results, recommendation } = report;
  const rows = results.map((result) => cellsOf(result));
  const widths = COLUMNS.map((name, index) =>
    Math.max(name.length, ...rows.map((cells) => cells[index]?.length ?? 0)),
  );
  const line = (cells: readonly string[]): string =>
    cells.map((cell, index) => cell.padStart((widths[index] ?? 0) + COLUMN_GAP)).join('');
  return [
    describeSweep(report),
    '',
    line(COLUMNS),
    ...rows.map((cells, index) => `${line(cells)}${results[index] === recommendation.result ? '  *' : ''}`),
    '',
    `* recommended: ${optionsOf(recommendation.result.setting)}`,
    ...wrap(recommendation.reason),
    '',
  ].join('\n');
}

function cellsOf(result: Result): string[] {
  const { setting, p99Ms, peakResidentBytes, leftResidentBytes } = result;
  return [
    setting.cache,
    setting.cache === 'none' ? String(setting.windowCount) : '-',
    setting.cache === 'none' ? formatSize(setting.windowBytes) : '-',
    throughput(result),
    result.runs.length === 1 ? '-' : spreadPercent(result).toFixed(0),
    p99Ms.toFixed(3),
    mebibytes(peakResidentBytes),
    mebibytes(leftResidentBytes),
  ];
}

/** For JSON.stringify: bytes, milliseconds, and null where a setting has no windows. */
export function jsonReport(report: SweepReport): Record<string, unknown> {
  const { directory, workload, repeatCount, results, recommendation } = report;
  const { pattern, requestBytes, depth, count } = workload;
  return {
    directory,
    pattern,
    scratchBytes: count * requestBytes,
    requestBytes,
    depth,
    repeats: repeatCount,
    throughputTolerance: THROUGHPUT_TOLERANCE,
    settings: results.map(jsonResult),
    recommended: {
      ...jsonSetting(recommendation.result.setting),
      options: optionsOf(recommendation.result.setting),
      reason: recommendation.reason,
    },
  };
}

function jsonResult(result: Result): Record<string, unknown> {
  return {
    ...jsonSetting(result.setting),
    bytesPerSecond: result.bytesPerSecond,
    runs: result.runs,
    p99Ms: result.p99Ms,
    peakResidentBytes: result.peakResidentBytes,
    leftResidentBytes: result.leftResidentBytes,
  };
}

function jsonSetting(setting: Setting): Record<string, unknown> {
  return setting.cache === 'none'
    ? { cache: 'none', windows: setting.windowCount, windowBytes: setting.windowBytes }
    : { cache: 'default', windows: null, windowBytes: null };
}

function wrap(text: string, width = 100): string[] {
  const lines: string[] = [];
  for (const word of text.split(' ')) {
    const last = lines.at(-1);
    if (last !== undefined && last.length + 1 + word.length <= width) {
      lines[lines.length - 1] = `${last} ${word}`;
    } else {
      lines.push(word);
    }
  }
  return lines;
}
