/** Keeps the page up to date: one small request a second while it is looked at, none while it is hidden. */
import type { Status } from '../../status.ts';
import { cellOpacity } from '../strip.ts';
import { isDurable, pageTexts, residencyText } from '../view.ts';
import { Charts } from './charts.ts';
import { History } from './history.ts';

const INTERVAL_MS = 1000;

const history = new History();
let charts: Charts | undefined;
let timer: number | undefined;

async function refresh(): Promise<void> {
  try {
    const response = await fetch('/status.json', { cache: 'no-store', signal: AbortSignal.timeout(10_000) });
    if (!response.ok) throw new Error(`HTTP status ${response.status}`);
    show((await response.json()) as Status);
    say('Updated every second.', true);
  } catch {
    say('The server does not answer; these numbers are old.', false);
  }
  if (!document.hidden) {
    timer = window.setTimeout(refresh, INTERVAL_MS);
  }
}

function show(status: Status): void {
  if (!history.add(status)) return;
  const shown = Array.from(
    document.querySelectorAll<HTMLElement>('[data-export]'),
    ({ dataset }) => dataset['name'],
  );
  if (
    shown.length !== status.exports.length ||
    shown.some((name, index) => name !== status.exports[index]?.name)
  ) {
    // Exports came or went: the page as the server makes it has their headings.
    location.reload();
    return;
  }
  const texts = pageTexts(status, history.before === status ? undefined : history.before);
  for (const element of document.querySelectorAll<HTMLElement>('[data-text]')) {
    const text = texts.get(element.dataset['text'] ?? '');
    // Untouched where nothing changes, so that a selection stays and little is laid out anew.
    if (text !== undefined && element.textContent !== text) element.textContent = text;
  }
  document.getElementById('durability')?.setAttribute('data-durable', String(isDurable(status)));
  for (const [index, one] of status.exports.entries()) {
    const strip = document.querySelector(`[data-export="${index}"] .strip`);
    strip?.setAttribute('aria-label', residencyText(one));
    for (const [cell, share] of (one.residency?.cells ?? []).entries()) {
      strip?.children.item(cell)?.setAttribute('fill-opacity', cellOpacity(share));
    }
  }
  charts?.update();
}

function say(text: string, isFresh: boolean): void {
  const element = document.getElementById('refresh');
  if (element === null || element.textContent === text) return;
  element.textContent = text;
  element.classList.toggle('stale', !isFresh);
}

document.addEventListener('visibilitychange', () => {
  window.clearTimeout(timer);
  if (!document.hidden) void refresh();
});
document.getElementById('charts')?.removeAttribute('hidden');
charts = new Charts(history);
void refresh();
