/**
 * Throughput against peak residency as an SVG chart, drawn by ECharts without a DOM.
 *
 * ECharts takes 67 MB on disk and 0.3 s to load, more than the rest of the program: so it is an optional
 * dependency, loaded only when a plot is asked for, and known here only by the three methods in use, so that
 * the program compiles without it.
 */
import { accessSync, constants, statSync } from 'node:fs';
import { writeFile } from 'node:fs/promises';
import { dirname } from 'node:path';
import { formatSize } from '../../units/size.ts';
import { CommandError, describeError } from '../command-error.ts';
import { describeSweep, type SweepReport } from './report.ts';
import { isSameFile } from './scratch-file.ts';
import { optionsOf, type Setting } from './setting.ts';
import type { Result } from './sweep.ts';
import { mebibytes, throughput } from './units.ts';

/** Keeps the label of a point legible where a line crosses it. */
const HALO = { textBorderColor: '#ffffff', textBorderWidth: 3 };

/** Another side for each series: points that lie close together keep their labels apart. */
const LABEL_SIDES = ['top', 'top', 'right', 'bottom'];

interface Chart {
  setOption(option: Readonly<Record<string, unknown>>): void;
  renderToSVGString(): string;
  dispose(): void;
}

export interface ChartLibrary {
  init(
    element: null,
    theme: null,
    options: { renderer: 'svg'; ssr: true; width: number; height: number },
  ): Chart;
}

const WIDTH = 960;
const HEIGHT = 600;
const FONT = 'DejaVu Sans, Arial, sans-serif';

/** Okabe and Ito: told apart by colour-blind people, and on paper by the symbols beside them. */
const COLORS = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#e69f00', '#56b4e9'];
const SYMBOLS = ['circle', 'rect', 'triangle', 'diamond', 'emptyCircle', 'emptyRect'];

/** Before the sweep: what would keep the plot from being made after it. `file` is the user's own. */
export async function preparePlot(
  path: string,
  file: string,
): Promise<(report: SweepReport) => Promise<void>> {
  assertWritable(path, file);
  const library = await loadLibrary();
  return async (report) => {
    try {
      await writeFile(path, drawPlot(library, report));
    } catch (error) {
      throw new CommandError(`Cannot write the plot "${path}": ${describeError(error)}`);
    }
  };
}

function assertWritable(path: string, file: string): void {
  if (isSameFile(path, file)) {
    throw new CommandError(`--plot "${path}" is the file to tune for, which is never written`);
  }
  try {
    const stats = statSync(path, { throwIfNoEntry: false });
    if (stats?.isDirectory() || stats?.isBlockDevice()) {
      throw new CommandError(
        `Cannot write the plot "${path}": it is ${stats.isDirectory() ? 'a directory' : 'a block device'}`,
      );
    }
    accessSync(stats === undefined ? dirname(path) : path, constants.W_OK);
  } catch (error) {
    if (error instanceof CommandError) {
      throw error;
    }
    const { code } = error as NodeJS.ErrnoException;
    const reason =
      code === 'ENOENT' ? 'there is no such directory' : code === 'EACCES' ? 'permission denied' : code;
    throw new CommandError(`Cannot write the plot "${path}": ${reason}`);
  }
}

async function loadLibrary(): Promise<ChartLibrary> {
  // A variable: the compiler must not look for the package.
  const name = 'echarts';
  try {
    return (await import(name)) as ChartLibrary;
  } catch {
    throw new CommandError('--plot needs the package echarts, which is not installed: npm install echarts');
  }
}

function drawPlot(library: ChartLibrary, report: SweepReport): string {
  const chart = library.init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height: HEIGHT });
  try {
    chart.setOption(chartOption(report));
    return `${chart.renderToSVGString()}\n`;
  } finally {
    chart.dispose();
  }
}

function chartOption(report: SweepReport): Readonly<Record<string, unknown>> {
  const { results, recommendation } = report;
  return {
    animation: false,
    backgroundColor: '#ffffff',
    color: COLORS,
    textStyle: { fontFamily: FONT },
    title: {
      text: 'nbd-serve tune: throughput against peak residency',
      subtext: `${describeSweep(report)}\nrecommended (ringed): ${optionsOf(recommendation.result.setting)}; numbers at the points: windows`,
      left: 'center',
      top: 8,
      subtextStyle: { lineHeight: 18, width: WIDTH - 40, overflow: 'truncate' },
    },
    legend: { orient: 'vertical', right: 16, top: 110, itemGap: 14 },
    grid: { left: 80, right: 200, top: 110, bottom: 65 },
    xAxis: axis('Peak in the page cache (MiB)', 32, {
      type: 'log',
      logBase: 2,
      ...logBounds(results.map(({ peakResidentBytes }) => mebi(peakResidentBytes))),
    }),
    yAxis: axis('Durable throughput (MiB/s)', 55, { type: 'value', min: 0 }),
    series: [...seriesOf(results), ring(recommendation.result)],
  };
}

function axis(name: string, nameGap: number, more: Readonly<Record<string, unknown>>): unknown {
  return {
    name,
    nameGap,
    nameLocation: 'middle',
    nameTextStyle: { fontSize: 13 },
    minorTick: { show: true },
    splitLine: { lineStyle: { color: '#e4e4e4' } },
    ...more,
  };
}

/** Whole powers of two around the points. */
function logBounds(values: readonly number[]): { min: number; max: number } {
  const min = 2 ** Math.floor(Math.log2(0.95 * Math.min(...values)));
  return { min, max: Math.max(2 * min, 2 ** Math.ceil(Math.log2(1.05 * Math.max(...values)))) };
}

/** One line for each window size, along the window counts; the baseline is a point. */
function seriesOf(results: readonly Result[]): unknown[] {
  const names = [...new Set(results.map(({ setting }) => seriesName(setting)))];
  return names.map((name, index) => ({
    name,
    type: 'line',
    symbol: SYMBOLS[index % SYMBOLS.length],
    symbolSize: 10,
    lineStyle: { width: 1.5 },
    label: {
      show: true,
      position: LABEL_SIDES[index % LABEL_SIDES.length],
      color: 'inherit',
      distance: 10,
      fontSize: 12,
      formatter: '{@[2]}',
      ...HALO,
    },
    labelLayout: { moveOverlap: 'shiftY' },
    data: results.filter(({ setting }) => seriesName(setting) === name).map(point),
  }));
}

function seriesName(setting: Setting): string {
  return setting.cache === 'default' ? 'cache=default' : `windows of ${formatSize(setting.windowBytes)}`;
}

/** x, y, label: the number of windows. */
function point(result: Result): [number, number, string] {
  const { setting } = result;
  const label = setting.cache === 'default' ? 'default' : String(setting.windowCount);
  return [Number(mebi(result.peakResidentBytes).toFixed(3)), Number(throughput(result)), label];
}

function ring(result: Result): unknown {
  const [x, y] = point(result);
  return {
    name: 'recommended',
    type: 'scatter',
    symbol: 'circle',
    symbolSize: 24,
    itemStyle: { color: 'transparent', borderColor: '#000000', borderWidth: 2 },
    data: [[x, y]],
  };
}

/** At least a page: a logarithm has no place for nothing. */
function mebi(bytes: number): number {
  return Math.max(Number(mebibytes(bytes)), 4 / 1024);
}
