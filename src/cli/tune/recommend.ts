/**
 * The rule: among the settings with `--cache none` that reach 95 % of the best throughput of them all, the one
 * with the smallest peak residency; of equals, the fastest. The baseline is no candidate: whoever asks which
 * windows to use has chosen `--cache none`.
 */

import { optionsOf } from './setting.ts';
import { median } from './statistics.ts';
import type { Result } from './sweep.ts';
import { mebibytes, spreadPercent, throughput } from './units.ts';

/** Closer than this two settings count as equally fast; it is about the spread of runs on a quiet disk. */
export const THROUGHPUT_TOLERANCE = 0.05;

/** Percent between runs of one setting from which on a difference of 5 % between two says little. */
const DOUBTFUL_SPREAD_PERCENT = 25;

export interface Recommendation {
  readonly result: Result;
  /** Sentences for people. */
  readonly reason: string;
}

/** `results` hold at least one with `--cache none`. */
export function recommend(results: readonly Result[]): Recommendation {
  const candidates = results.filter(({ setting }) => setting.cache === 'none');
  const best = maximum(candidates, ({ bytesPerSecond }) => bytesPerSecond);
  const close = candidates.filter(
    ({ bytesPerSecond }) => bytesPerSecond >= best.bytesPerSecond * (1 - THROUGHPUT_TOLERANCE),
  );
  const peak = Math.min(...close.map(({ peakResidentBytes }) => peakResidentBytes));
  const result = maximum(
    close.filter(({ peakResidentBytes }) => peakResidentBytes === peak),
    ({ bytesPerSecond }) => bytesPerSecond,
  );
  return {
    result,
    reason: [whyThis(result, best, close.length), against(result, results), ...doubt(candidates)].join(' '),
  };
}

function whyThis(result: Result, best: Result, closeCount: number): string {
  const peak = `a peak of ${mebibytes(result.peakResidentBytes)} MiB in the page cache`;
  if (closeCount === 1) {
    return `No other setting comes within 5 % of its ${throughput(result)} MiB/s; it has ${peak}.`;
  }
  const others = `of the ${closeCount} settings within 5 % of the best throughput`;
  return result === best
    ? `It is the fastest, with ${throughput(result)} MiB/s, and has the smallest peak ${others}: ${peak}.`
    : `It has the smallest peak ${others} (${throughput(best)} MiB/s with ${optionsOf(best.setting)}): ${peak}, at ${throughput(result)} MiB/s.`;
}

/** Compares with `--cache default`. */
function against(result: Result, results: readonly Result[]): string {
  const baseline = results.find(({ setting }) => setting.cache === 'default');
  if (baseline === undefined) {
    return '';
  }
  const ratio = result.bytesPerSecond / baseline.bytesPerSecond;
  const change = Math.round(100 * (ratio - 1));
  const speed =
    change === 0
      ? 'as fast as'
      : ratio >= 2
        ? `${ratio.toFixed(1)} times as fast as`
        : `${Math.abs(change)} % ${change > 0 ? 'faster' : 'slower'} than`;
  return `That is ${speed} --cache default, which leaves ${mebibytes(baseline.leftResidentBytes)} MiB behind where this leaves ${mebibytes(result.leftResidentBytes)}.`;
}

/** What a shared machine does to the numbers belongs beside them. */
function doubt(candidates: readonly Result[]): string[] {
  if (candidates.some(({ runs }) => runs.length === 1)) {
    return ['One run of each setting says little: --repeat 3 or more tells how far runs differ.'];
  }
  const spread = median(candidates.map(spreadPercent));
  return spread < DOUBTFUL_SPREAD_PERCENT
    ? []
    : [
        `Runs of one setting differed by ${spread.toFixed(0)} % (median): the disk is busy or the size small, so repeat it, with more --repeat or a larger --size, before you rely on it.`,
      ];
}

function maximum(results: readonly Result[], amountOf: (result: Result) => number): Result {
  return results.reduce((best, result) => (amountOf(result) > amountOf(best) ? result : best));
}
