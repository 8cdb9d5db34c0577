/** A matrix as an SVG chart: for each cell the throughput of every server, as a multiple of the best peer's. */
import type { ChartLibrary } from '../../src/cli/tune/plot.ts';
import { FLOOR } from './floor.ts';
import type { CellResult, MatrixResult } from './measure.ts';
import { isOurs, isPeer, rateOf, serversIn } from './report.ts';
import { median } from './statistics.ts';

const WIDTH = 960;
const TOP = 105;
const BOTTOM = 50;
/** Of a bar with its share of the gap. */
const BAR_HEIGHT = 9;
const FONT = 'DejaVu Sans, Arial, sans-serif';

/** Okabe and Ito: told apart by colour-blind people. Ours first. */
const COLORS = ['#d55e00', '#e69f00', '#cc79a7', '#f0e442'];
const PEER_COLORS = ['#0072b2', '#56b4e9', '#009e73'];
const FLOOR_COLOR = '#bbbbbb';

export async function loadChartLibrary(): Promise<ChartLibrary> {
  // A variable: the compiler must not look for the package, which is optional.
  const name = 'echarts';
  try {
    return (await import(name)) as ChartLibrary;
  } catch {
    throw new Error('--charts needs the package echarts, which is not installed: npm install echarts');
  }
}

export function drawMatrix(library: ChartLibrary, result: MatrixResult, subtext: string): string {
  const height = TOP + BOTTOM + result.cells.length * (serversIn(result).length + 1) * BAR_HEIGHT;
  const chart = library.init(null, null, { renderer: 'svg', ssr: true, width: WIDTH, height });
  try {
    chart.setOption(chartOption(result, subtext));
    return `${chart.renderToSVGString()}\n`;
  } finally {
    chart.dispose();
  }
}

/** What ECharts draws: bars from the left, the first cell and the first server on top. */
export function chartOption(result: MatrixResult, subtext: string): Readonly<Record<string, unknown>> {
  const servers = serversIn(result);
  return {
    animation: false,
    backgroundColor: '#ffffff',
    textStyle: { fontFamily: FONT },
    title: { text: `${result.matrix.name}: throughput, best peer = 1`, subtext, left: 'center', top: 4 },
    legend: { top: 72, itemGap: 24 },
    grid: { left: 130, right: 40, top: TOP, bottom: BOTTOM },
    xAxis: { type: 'value', min: 0, splitLine: { lineStyle: { color: '#e4e4e4' } } },
    yAxis: {
      type: 'category',
      inverse: true,
      data: result.cells.map(({ cell }) => cell.name),
      axisTick: { show: false },
    },
    series: servers.map((server, index) => ({
      name: server,
      type: 'bar',
      barGap: '0%',
      barCategoryGap: '15%',
      itemStyle: { color: colorOf(server, servers) },
      data: result.cells.map((each) => relativeRate(each, server)),
      ...(index === 0 && {
        markLine: {
          symbol: 'none',
          label: { show: false },
          lineStyle: { color: '#000000', type: 'solid', width: 1 },
          data: [{ xAxis: 1 }],
        },
      }),
    })),
  };
}

function colorOf(server: string, servers: readonly string[]): string {
  if (server === FLOOR) {
    return FLOOR_COLOR;
  }
  const palette = isOurs(server) ? COLORS : PEER_COLORS;
  const index = servers.filter(isOurs(server) ? isOurs : isPeer).indexOf(server);
  return palette[index % palette.length] ?? FLOOR_COLOR;
}

/** Null, which is drawn as nothing, where a server has no result or there is no peer to compare with. */
function relativeRate({ cell, contests }: CellResult, server: string): number | null {
  const rateOfServer = (name: string): number =>
    median((contests.find((each) => each.server === name)?.runs ?? []).map((run) => rateOf(cell, run)));
  const peers = contests.filter((each) => isPeer(each.server) && each.runs.length > 0);
  const ratio = rateOfServer(server) / Math.max(...peers.map((each) => rateOfServer(each.server)));
  return Number.isFinite(ratio) && ratio > 0 ? Number(ratio.toFixed(3)) : null;
}
