/**
 * Every text of the status page that changes, by the name of the element that shows it (`data-text`). The server
 * fills the page with them, and the browser replaces them: both call the same function.
 */
import type { ExportStatus, Status } from '../status.ts';
import {
  formatBytes,
  formatCount,
  formatDuration,
  formatRate,
  formatSeconds,
  formatShare,
} from './format.ts';
import { bucketsBetween, quantile } from './latency.ts';

export type Texts = ReadonlyMap<string, string>;

/** What stands where nothing can be told. */
const NOTHING = '–';

/** What happened from one status to the next. */
export interface Activity {
  readonly seconds: number;
  readonly readBytesPerSecond: number;
  readonly writtenBytesPerSecond: number;
  readonly requestsPerSecond: number;
  /** Of READs and WRITEs, in seconds; undefined when there were none. */
  readonly median: number | undefined;
  readonly p99: number | undefined;
}

/** `before` undefined: since the start of the server. */
export function activityBetween(now: Status, before: Status | undefined): Activity {
  const seconds = Math.max(now.uptimeSeconds - (before?.uptimeSeconds ?? 0), 0.001);
  const read = now.commands['read'];
  const written = now.commands['write'];
  const readBefore = before?.commands['read'];
  const writtenBefore = before?.commands['write'];
  const readBuckets = bucketsBetween(read?.buckets ?? [], readBefore?.buckets);
  const writtenBuckets = bucketsBetween(written?.buckets ?? [], writtenBefore?.buckets);
  const buckets = readBuckets.map((count, index) => count + (writtenBuckets[index] ?? 0));
  const bounds = now.latencyBounds;
  return {
    seconds,
    readBytesPerSecond: ((read?.bytes ?? 0) - (readBefore?.bytes ?? 0)) / seconds,
    writtenBytesPerSecond: ((written?.bytes ?? 0) - (writtenBefore?.bytes ?? 0)) / seconds,
    requestsPerSecond: (requestCount(now) - (before === undefined ? 0 : requestCount(before))) / seconds,
    median: quantile(bounds, buckets, 0.5),
    p99: quantile(bounds, buckets, 0.99),
  };
}

/** `before` undefined: rates are those since the start. */
export function pageTexts(now: Status, before: Status | undefined): Texts {
  const activity = activityBetween(now, before);
  const errorCount = Object.values(now.errors).reduce((sum, count) => sum + count, 0);
  const { connections, windows, loopDelay } = now;
  return new Map([
    [
      'period',
      before === undefined ? 'since the start' : `over the last ${formatDuration(activity.seconds)}`,
    ],
    ['uptime', formatDuration(now.uptimeSeconds)],
    ['read-rate', `${formatBytes(activity.readBytesPerSecond)}/s`],
    ['read-total', `${formatBytes(now.commands['read']?.bytes ?? 0)} in all`],
    ['write-rate', `${formatBytes(activity.writtenBytesPerSecond)}/s`],
    ['write-total', `${formatBytes(now.commands['write']?.bytes ?? 0)} in all`],
    ['request-rate', `${formatRate(activity.requestsPerSecond)}/s`],
    ['request-total', `${formatCount(requestCount(now))} in all`],
    ['latency-p99', orNothing(activity.p99, formatSeconds)],
    ['latency-median', `median ${orNothing(activity.median, formatSeconds)}`],
    ['connections', formatCount(connections.current)],
    ['connection-total', connectionTotal(connections)],
    ['errors', formatCount(errorCount)],
    ['error-kinds', errorKinds(now.errors)],
    ['durability', isDurable(now) ? 'No acknowledged data lost' : 'Acknowledged data lost'],
    ...commandTexts(now),
    ...now.exports.flatMap(exportTexts),
    ['windows-written', formatCount(windows.written)],
    ['windows-waited', formatCount(windows.waited)],
    ['windows-evicted', formatCount(windows.evicted)],
    ['loop-p50', orNothing(loopDelay?.p50, formatSeconds)],
    ['loop-p99', orNothing(loopDelay?.p99, formatSeconds)],
    ['loop-max', orNothing(loopDelay?.max, formatSeconds)],
    ['processor', `${formatSeconds(now.processorSeconds)} in all`],
    ['processor-share', formatShare(processorShare(now, before))],
    ['memory', formatBytes(now.memoryBytes)],
  ]);
}

/** False when data that was acknowledged is lost in some export. */
export function isDurable(status: Status): boolean {
  return status.exports.every(({ lossCount }) => lossCount === null || lossCount === 0);
}

/** What a strip shows, in words. */
export function residencyText({ size, residency }: ExportStatus): string {
  if (residency === null) {
    return 'What of it the page cache of the host holds is not told.';
  }
  const { residentBytes } = residency;
  const share = size === 0 ? 0 : residentBytes / size;
  return `${formatBytes(residentBytes)} of ${formatBytes(size)} resident (${formatShare(share)})`;
}

function exportTexts(one: ExportStatus, index: number): [string, string][] {
  const losses = one.lossCount ?? 0;
  return [
    [`export-${index}-resident`, residencyText(one)],
    [
      `export-${index}-latch`,
      losses === 0
        ? 'FLUSH and FUA keep their promise.'
        : `${formatCount(losses)} ${losses === 1 ? 'error' : 'errors'} cost acknowledged data: FLUSH and FUA fail until restart.`,
    ],
  ];
}

function commandTexts({ commands, latencyBounds }: Status): [string, string][] {
  return Object.entries(commands).flatMap(([command, { requests, bytes, seconds, buckets }]) => {
    const timed = buckets.reduce((sum, count) => sum + count, 0);
    return [
      [`${command}-requests`, formatCount(requests)],
      [`${command}-bytes`, formatBytes(bytes)],
      [`${command}-mean`, orNothing(timed === 0 ? undefined : seconds / timed, formatSeconds)],
      [`${command}-median`, orNothing(quantile(latencyBounds, buckets, 0.5), formatSeconds)],
      [`${command}-p99`, orNothing(quantile(latencyBounds, buckets, 0.99), formatSeconds)],
    ] satisfies [string, string][];
  });
}

function connectionTotal({ opened, refused }: Status['connections']): string {
  const text = `${formatCount(opened)} in all`;
  return refused === 0 ? text : `${text}, ${formatCount(refused)} refused`;
}

function errorKinds(errors: Status['errors']): string {
  const kinds = Object.entries(errors)
    .filter(([, count]) => count > 0)
    .map(([name, count]) => `${name} ${formatCount(count)}`);
  return kinds.length === 0 ? 'none so far' : kinds.join(', ');
}

function processorShare(now: Status, before: Status | undefined): number {
  const seconds = Math.max(now.uptimeSeconds - (before?.uptimeSeconds ?? 0), 0.001);
  return (now.processorSeconds - (before?.processorSeconds ?? 0)) / seconds;
}

function requestCount({ commands }: Status): number {
  return Object.values(commands).reduce((sum, { requests }) => sum + requests, 0);
}

function orNothing(number: number | undefined, format: (number: number) => string): string {
  return number === undefined ? NOTHING : format(number);
}
