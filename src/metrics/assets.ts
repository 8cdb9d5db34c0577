/** The files of the status page: our scripts and styles, and the chart library from its own package. */
import { readFile } from 'node:fs/promises';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { ICON } from './page/icon.ts';
import { STYLE } from './page/style.ts';

export interface Asset {
  readonly type: string;
  readonly load: () => Promise<string | Buffer>;
}

const JAVASCRIPT = 'text/javascript; charset=utf-8';
const CSS = 'text/css; charset=utf-8';

/** By the path of their URL. Scripts lie as they do in the folder of this module, so that their imports hold. */
export const ASSETS: ReadonlyMap<string, Asset> = new Map([
  ['/page/browser/main.js', ours('page/browser/main.js')],
  ['/page/browser/charts.js', ours('page/browser/charts.js')],
  ['/page/browser/history.js', ours('page/browser/history.js')],
  ['/page/format.js', ours('page/format.js')],
  ['/page/latency.js', ours('page/latency.js')],
  ['/page/strip.js', ours('page/strip.js')],
  ['/page/view.js', ours('page/view.js')],
  ['/page/style.css', { type: CSS, load: async () => STYLE }],
  ['/page/icon.svg', { type: 'image/svg+xml', load: async () => ICON }],
  ['/uplot.js', { type: JAVASCRIPT, load: () => uplot('dist/uPlot.iife.min.js') }],
  ['/uplot.css', { type: CSS, load: () => uplot('dist/uPlot.min.css') }],
]);

const loaded = new Map<Asset, Promise<string | Buffer>>();

/** Reads an asset once. */
export function loadAsset(asset: Asset): Promise<string | Buffer> {
  const content = loaded.get(asset) ?? asset.load();
  loaded.set(asset, content);
  return content;
}

function ours(path: string): Asset {
  return { type: JAVASCRIPT, load: () => readFile(join(import.meta.dirname, path)) };
}

function uplot(path: string): Promise<Buffer> {
  const folder = dirname(createRequire(import.meta.url).resolve('uplot/package.json'));
  return readFile(join(folder, path));
}
