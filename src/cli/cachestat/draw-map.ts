/** A residency map as text: a strip of cells, its legend, and the ranges in bytes. */
import { PAGE_BYTES } from '../page-cache.ts';
import type { CountedRange, ResidencyMap } from './residency-map.ts';

/** Cells of a strip that no terminal measures. */
const CELL_COUNT_DEFAULT = 64;
const CELL_COUNT_MIN = 16;
const CELL_COUNT_MAX = 512;

/** Columns that a strip needs beside its cells. */
const STRIP_MARGIN = 4;

/** Ranges that are listed; more would bury the strip, and are for --json. */
const RANGE_ROW_COUNT_MAX = 64;

/** 2^53-1 has 16 digits. */
const COLUMN_WIDTH = 18;

/** None, under a third, under two thirds, not all, all. */
export type Glyphs = readonly [string, string, string, string, string];

export const UNICODE_GLYPHS: Glyphs = ['·', '░', '▒', '▓', '█'];
export const ASCII_GLYPHS: Glyphs = ['.', '-', '+', '*', '#'];

/** What the locale can show (locale(7): the first of the three that is set counts). */
export function glyphsFor(environment: NodeJS.ProcessEnv): Glyphs {
  const { LC_ALL, LC_CTYPE, LANG } = environment;
  const locale = [LC_ALL, LC_CTYPE, LANG].find((value) => value !== undefined && value !== '') ?? '';
  return /utf-?8/i.test(locale) ? UNICODE_GLYPHS : ASCII_GLYPHS;
}

/** Cells that fit a terminal of so many columns; undefined: there is no terminal. */
export function cellCountFor(columns: number | undefined): number {
  return columns === undefined
    ? CELL_COUNT_DEFAULT
    : Math.min(Math.max(columns - STRIP_MARGIN, CELL_COUNT_MIN), CELL_COUNT_MAX);
}

export function drawMap({ cellBytes, cells, ranges }: ResidencyMap, glyphs: Glyphs): string {
  const [none, low, middle, high, all] = glyphs;
  const legend = `${none} none  ${low} under 1/3  ${middle} under 2/3  ${high} not all  ${all} all`;
  const shown = ranges.slice(0, RANGE_ROW_COUNT_MAX);
  const lines = [
    `  |${cells.map((cell) => glyph(cell, glyphs)).join('')}|`,
    `  a cell is ${cellBytes} bytes:  ${legend}`,
    ...(shown.length === 0 ? [] : [row(['offset', 'length', 'resident'])]),
    ...shown.map(({ offset, length, residentPages }) => row([offset, length, residentPages])),
    ...(ranges.length > shown.length
      ? [`  ... and ${ranges.length - shown.length} more ranges, which --json lists`]
      : []),
  ];
  return `${lines.join('\n')}\n`;
}

function glyph({ length, residentPages }: CountedRange, glyphs: Glyphs): string {
  const [none, low, middle, high, all] = glyphs;
  const share = residentPages / Math.ceil(length / PAGE_BYTES);
  if (share === 0) {
    return none;
  }
  if (share >= 1) {
    return all;
  }
  return share < 1 / 3 ? low : share < 2 / 3 ? middle : high;
}

function row(cells: readonly (string | number)[]): string {
  return cells.map((cell) => String(cell).padStart(COLUMN_WIDTH)).join('');
}
