/** The three charts: throughput, requests, latency. They are redrawn when the width or the colours change. */
import type uPlotType from 'uplot';
import type { Activity } from '../view.ts';
import type { History } from './history.ts';

/** The library is a script of its own. */
declare const uPlot: typeof uPlotType;

const HEIGHT = 190;
const MIB = 1024 * 1024;

interface Chart {
  readonly isLogarithmic?: boolean;
  readonly lines: readonly Line[];
}

interface Line {
  readonly label: string;
  /** A custom property of the style sheet. */
  readonly colour: '--read' | '--write' | '--text';
  /** Told apart without colours, too. */
  readonly dash?: number[];
  value(activity: Activity): number | undefined;
}

const CHARTS: Readonly<Record<string, Chart>> = {
  throughput: {
    lines: [
      { label: 'read', colour: '--read', value: ({ readBytesPerSecond }) => readBytesPerSecond / MIB },
      {
        label: 'written',
        colour: '--write',
        dash: [8, 3],
        value: ({ writtenBytesPerSecond }) => writtenBytesPerSecond / MIB,
      },
    ],
  },
  requests: {
    lines: [{ label: 'all commands', colour: '--text', value: ({ requestsPerSecond }) => requestsPerSecond }],
  },
  latency: {
    // The page cache answers in microseconds, the disk in milliseconds.
    isLogarithmic: true,
    lines: [
      { label: 'median', colour: '--read', value: ({ median }) => milliseconds(median) },
      { label: '99 %', colour: '--write', dash: [8, 3], value: ({ p99 }) => milliseconds(p99) },
    ],
  },
};

function milliseconds(seconds: number | undefined): number | undefined {
  return seconds === undefined ? undefined : seconds * 1000;
}

export class Charts {
  readonly #history: History;
  #plots: { readonly id: string; readonly plot: uPlotType }[] = [];

  constructor(history: History) {
    this.#history = history;
    this.#create();
    matchMedia('(prefers-color-scheme: dark)').addEventListener('change', () => {
      for (const { plot } of this.#plots) plot.destroy();
      this.#create();
    });
    const observer = new ResizeObserver(() => {
      for (const { id, plot } of this.#plots)
        plot.setSize({ width: elementOf(id).clientWidth, height: HEIGHT });
    });
    for (const { id } of this.#plots) observer.observe(elementOf(id));
  }

  update(): void {
    for (const { id, plot } of this.#plots) plot.setData(this.#data(id));
  }

  #create(): void {
    const style = getComputedStyle(document.documentElement);
    const colour = (name: string): string => style.getPropertyValue(name).trim();
    const font = `12px ${getComputedStyle(document.body).fontFamily}`;
    const axis = {
      stroke: colour('--soft'),
      font,
      grid: { stroke: colour('--line'), width: 1 },
      ticks: { show: false },
    };
    this.#plots = Object.entries(CHARTS).map(([id, { lines, isLogarithmic }]) => {
      const options: uPlotType.Options = {
        width: elementOf(id).clientWidth,
        height: HEIGHT,
        padding: [12, 26, 0, 0],
        cursor: { drag: { x: false, y: false } },
        axes: [
          { ...axis, space: 80, size: 30, values: (_plot, values) => values.map(clock) },
          {
            ...axis,
            size: 52,
            values: (_plot, values) => values.map(axisNumber),
            ...(isLogarithmic ? { grid: { ...axis.grid, filter: powersOfTen } } : {}),
          },
        ],
        scales: { y: isLogarithmic ? { distr: 3 } : { range: fromZero } },
        legend: { markers: { dash: (_plot, index) => (lines[index - 1]?.dash ? 'dashed' : 'solid') } },
        series: [
          {},
          ...lines.map(({ label, colour: name, dash }) => ({
            label,
            stroke: colour(name),
            width: 2,
            ...(dash === undefined ? {} : { dash }),
            points: { show: false },
            value: (_plot: uPlotType, value: number | null) => (value === null ? '' : axisNumber(value)),
          })),
        ],
      };
      return { id, plot: new uPlot(options, this.#data(id), elementOf(id)) };
    });
  }

  #data(id: string): uPlotType.AlignedData {
    const activities = this.#history.activities();
    return [
      activities.map(({ time }) => time),
      ...(CHARTS[id]?.lines ?? []).map((line) => activities.map(({ activity }) => line.value(activity))),
    ];
  }
}

function elementOf(id: string): HTMLElement {
  const element = document.getElementById(id);
  if (element === null) throw new Error(`The page has no element "${id}"`);
  return element;
}

/** Not flat while nothing happens. */
function fromZero(_plot: uPlotType, _min: number, max: number): [number, number] {
  return [0, max > 0 ? max * 1.1 : 1];
}

/** A line for each of the other digits would be a carpet. */
function powersOfTen(_plot: uPlotType, splits: number[]): (number | null)[] {
  return splits.map((value) => (Number.isInteger(Math.log10(value)) ? value : null));
}

function clock(secondsSince1970: number): string {
  return new Date(secondsSince1970 * 1000).toTimeString().slice(0, 8);
}

/** Null: a line of a logarithmic axis that has no room for a number. */
function axisNumber(value: number | null): string {
  if (value === null) return '';
  if (value >= 1e6) return `${trim(value / 1e6)} M`;
  if (value >= 1e4) return `${trim(value / 1e3)} k`;
  return trim(value);
}

function trim(value: number): string {
  return String(Number(value.toPrecision(3)));
}
