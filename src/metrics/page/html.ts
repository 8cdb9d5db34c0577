/**
 * The status page as the server sends it: whole, with all numbers in place, so that it can be read without
 * JavaScript, which then reloads it every few seconds. With it the browser asks for new numbers and draws charts.
 */
import type { ExportStatus, Status } from '../status.ts';
import { formatBytes, formatCount } from './format.ts';
import { cellOpacity } from './strip.ts';
import { isDurable, pageTexts, residencyText, type Texts } from './view.ts';

const RELOAD_SECONDS = 5;

/** How the commands are called on the page, in the order of the table. */
const COMMAND_NAMES: Readonly<Record<string, string>> = {
  read: 'READ',
  write: 'WRITE',
  flush: 'FLUSH',
  trim: 'TRIM',
  write_zeroes: 'WRITE_ZEROES',
  cache: 'CACHE',
  block_status: 'BLOCK_STATUS',
  unknown: 'other',
};

/** `before` undefined: rates are those since the start. */
export function renderPage(now: Status, before: Status | undefined): string {
  const texts = pageTexts(now, before);
  return `<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<title>nbd-serve status</title>
<link rel="icon" href="/page/icon.svg" type="image/svg+xml">
<link rel="stylesheet" href="/uplot.css">
<link rel="stylesheet" href="/page/style.css">
<noscript><meta http-equiv="refresh" content="${RELOAD_SECONDS}"></noscript>
<script src="/uplot.js" defer></script>
<script src="/page/browser/main.js" type="module"></script>
</head>
<body>
<header>
<h1>nbd-serve</h1>
<p class="about">version ${escapeHtml(now.version)}, up for ${text(texts, 'uptime')}</p>
<p class="state" id="durability" data-durable="${isDurable(now)}"><span class="sign" aria-hidden="true"></span>${text(texts, 'durability')}</p>
</header>
<main>
<section aria-labelledby="now">
<h2 id="now">Now <span class="note">${text(texts, 'period')}</span></h2>
<dl class="tiles">
${tile(texts, 'Read', 'read-rate', 'read-total', 'read')}
${tile(texts, 'Written', 'write-rate', 'write-total', 'write')}
${tile(texts, 'Requests', 'request-rate', 'request-total')}
${tile(texts, 'Latency, 99 %', 'latency-p99', 'latency-median')}
${tile(texts, 'Connections', 'connections', 'connection-total')}
${tile(texts, 'Error replies', 'errors', 'error-kinds')}
</dl>
<div class="charts" id="charts" hidden>
${chart('throughput', 'Throughput, MiB/s')}
${chart('requests', 'Requests per second')}
${chart('latency', 'Latency of READ and WRITE, ms')}
</div>
</section>
<section aria-labelledby="exports">
<h2 id="exports">Exports <span class="note">and what of them the page cache of the host holds</span></h2>
${now.exports.map((one, index) => exportArticle(one, index, texts)).join('\n')}
${now.exports.length === 0 ? '<p>None is open.</p>' : ''}
${now.hiddenExportCount > 0 ? `<p>${formatCount(now.hiddenExportCount)} more are not shown.</p>` : ''}
<p class="legend">${key(0, 'nothing')} ${key(0.5, 'half')} ${key(1, 'all')} of a cell is resident</p>
</section>
<section aria-labelledby="commands">
<h2 id="commands">Commands <span class="note">since the start</span></h2>
<div class="scroll" tabindex="0" role="region" aria-labelledby="commands">
<table>
<thead><tr><th scope="col">Command</th><th scope="col">Requests</th><th scope="col">Bytes</th><th scope="col" class="extra">Mean</th><th scope="col" class="extra">Median</th><th scope="col">99 %</th></tr></thead>
<tbody>
${Object.entries(COMMAND_NAMES)
  .map(([command, name]) => commandRow(texts, command, name))
  .join('\n')}
</tbody>
</table>
</div>
</section>
<section aria-labelledby="server">
<h2 id="server">Server</h2>
<dl class="facts">
${fact('Write windows', `${text(texts, 'windows-written')} written, ${text(texts, 'windows-waited')} waited for, ${text(texts, 'windows-evicted')} evicted`)}
${fact('Event loop delay', `median ${text(texts, 'loop-p50')}, 99 % ${text(texts, 'loop-p99')}, longest ${text(texts, 'loop-max')}`)}
${fact('Processor', `${text(texts, 'processor-share')} of one, ${text(texts, 'processor')}`)}
${fact('Memory', text(texts, 'memory'))}
</dl>
</section>
</main>
<footer>
<p class="foot"><span id="refresh" role="status">The numbers are those of the moment when the page was loaded.</span>
<a href="/metrics">Metrics for Prometheus</a></p>
<noscript><p>Without JavaScript there are no charts, and the page is loaded again every ${RELOAD_SECONDS} seconds.</p></noscript>
</footer>
</body>
</html>
`;
}

function tile(texts: Texts, label: string, value: string, detail: string, series = ''): string {
  const sign = series === '' ? '' : `<span class="dot ${series}" aria-hidden="true"></span>`;
  return `<div><dt>${sign}${label}</dt><dd class="value">${text(texts, value)}</dd><dd class="detail">${text(texts, detail)}</dd></div>`;
}

function chart(id: string, label: string): string {
  return `<figure><figcaption id="${id}-label">${label}</figcaption><div class="chart" id="${id}" role="img" aria-labelledby="${id}-label"></div></figure>`;
}

function exportArticle(one: ExportStatus, index: number, texts: Texts): string {
  const name = one.name === '' ? 'the default export' : one.name;
  const notes = [formatBytes(one.size), ...(one.isReadOnly ? ['read-only'] : [])].join(', ');
  const description = one.description === '' ? '' : `<p class="detail">${escapeHtml(one.description)}</p>`;
  const latch = one.lossCount === null ? '' : `<p class="detail">${text(texts, `export-${index}-latch`)}</p>`;
  return `<article data-export="${index}" data-name="${escapeHtml(one.name)}">
<h3>${escapeHtml(name)} <span class="note">${notes}</span></h3>
${description}${strip(one)}
<p>${text(texts, `export-${index}-resident`)}</p>
${latch}
</article>`;
}

function strip(one: ExportStatus): string {
  const cells = one.residency?.cells ?? [];
  if (cells.length === 0) {
    return '';
  }
  const rects = cells.map(
    (share, index) => `<rect x="${index}" width="1" height="1" fill-opacity="${cellOpacity(share)}"/>`,
  );
  return `<svg class="strip" viewBox="0 0 ${cells.length} 1" preserveAspectRatio="none" role="img" aria-label="${escapeHtml(residencyText(one))}">${rects.join('')}</svg>
<p class="scale" aria-hidden="true"><span>0</span><span>${formatBytes(one.size / 2)}</span><span>${formatBytes(one.size)}</span></p>`;
}

function key(share: number, label: string): string {
  const rect = `<rect width="1" height="1" fill-opacity="${cellOpacity(share)}"/>`;
  return `<span><svg class="key" viewBox="0 0 1 1" aria-hidden="true">${rect}</svg>${label}</span>`;
}

/** Left out where the screen is narrow. */
const EXTRA_COLUMNS: ReadonlySet<string> = new Set(['mean', 'median']);

function commandRow(texts: Texts, command: string, name: string): string {
  const cells = ['requests', 'bytes', 'mean', 'median', 'p99'].map(
    (column) =>
      `<td${EXTRA_COLUMNS.has(column) ? ' class="extra"' : ''}>${text(texts, `${command}-${column}`)}</td>`,
  );
  return `<tr><th scope="row">${name}</th>${cells.join('')}</tr>`;
}

function fact(label: string, value: string): string {
  return `<div><dt>${label}</dt><dd>${value}</dd></div>`;
}

/** An element whose text the browser replaces. */
function text(texts: Texts, name: string): string {
  return `<span data-text="${name}">${escapeHtml(texts.get(name) ?? '')}</span>`;
}

const ENTITIES: Readonly<Record<string, string>> = {
  '&': '&amp;',
  '<': '&lt;',
  '>': '&gt;',
  '"': '&quot;',
  "'": '&#39;',
};

function escapeHtml(raw: string): string {
  return raw.replaceAll(/[&<>"']/g, (character) => ENTITIES[character] ?? '');
}
