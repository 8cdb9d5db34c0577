/** What of one file is in the page cache: measured, as a row of the table, and as a JSON object. */
import { close as closeDescriptor } from 'node:fs';
import { promisify } from 'node:util';
import { FileRefusedError, type OpenFile, openFile } from '../../plugins/file/open-file.ts';
import { CommandError, describeError } from '../command-error.ts';
import { type CachedPages, cachedPages, PAGE_BYTES } from '../page-cache.ts';
import { printable } from '../print.ts';
import { mapResidency, type ResidencyMap } from './residency-map.ts';

export interface FileReport {
  readonly path: string;
  /** Bytes. */
  readonly size: number;
  /** Of the whole file. */
  readonly pages: number;
  readonly cached: CachedPages;
  readonly map: ResidencyMap | undefined;
}

const COLUMNS = [
  'pages',
  'resident',
  'dirty',
  'writeback',
  'evicted',
  'recently-evicted',
  'bytes',
  'percent',
] as const;
const COLUMN_WIDTH = 14;

/** With `cellCount` the report has a map of so many cells. */
export async function reportFile(path: string, cellCount: number | undefined): Promise<FileReport> {
  const { fd, size } = openToLook(path);
  try {
    const cached = await cachedPages(fd, 0, 0, path);
    const map =
      cellCount === undefined
        ? undefined
        : await mapResidency(
            size,
            cellCount,
            async (offset, length) => (await cachedPages(fd, offset, length, path)).resident,
          );
    return { path, size, pages: Math.ceil(size / PAGE_BYTES), cached, map };
  } finally {
    await promisify(closeDescriptor)(fd);
  }
}

function openToLook(path: string): OpenFile {
  try {
    return openFile(path, true, undefined);
  } catch (error) {
    // The advice in brackets names options of the serving commands.
    throw error instanceof FileRefusedError
      ? new CommandError(describeError(error).replace(/ \(-[^()]*\)$/, ''))
      : error;
  }
}

export function tableHead(): string {
  return `${COLUMNS.map(pad).join('')}  file\n`;
}

/** `percent` and `bytes` are what is resident. */
export function tableRow({ path, pages, cached }: FileReport): string {
  const { resident, dirty, writeback, evicted, recentlyEvicted } = cached;
  const cells = [
    pages,
    resident,
    dirty ?? '-',
    writeback ?? '-',
    evicted ?? '-',
    recentlyEvicted ?? '-',
    resident * PAGE_BYTES,
    percentOf(resident, pages).toFixed(2),
  ];
  return `${cells.map(pad).join('')}  ${printable(path)}\n`;
}

/** For JSON.stringify. What the kernel cannot tell is null. */
export function jsonObject({ path, size, pages, cached, map }: FileReport): Record<string, unknown> {
  const amount = (count: number | undefined): Record<string, number> | null =>
    count === undefined
      ? null
      : { pages: count, bytes: count * PAGE_BYTES, percent: percentOf(count, pages) };
  return {
    file: path,
    size: { pages, bytes: size },
    pageBytes: PAGE_BYTES,
    resident: amount(cached.resident),
    dirty: amount(cached.dirty),
    writeback: amount(cached.writeback),
    evicted: amount(cached.evicted),
    recentlyEvicted: amount(cached.recentlyEvicted),
    ...(map === undefined ? {} : { map }),
  };
}

function percentOf(count: number, pages: number): number {
  return pages === 0 ? 0 : (100 * count) / pages;
}

function pad(cell: string | number, index: number): string {
  // One name is wider than its column.
  const width = Math.max(COLUMN_WIDTH, (COLUMNS[index]?.length ?? 0) + 2);
  return String(cell).padStart(width);
}
