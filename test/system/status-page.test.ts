/** The status page in Debian's chromium: live numbers under real requests, and nothing else on the network. */
import { writeFile } from 'node:fs/promises';
import { type Browser, type BrowserContextOptions, chromium, type Page } from 'playwright-core';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createFullImage, evict } from '../support/image.ts';
import { statusUrl } from '../support/metrics.ts';
import { eventually } from '../support/polling.ts';
import { python } from '../support/python.ts';
import { type NbdServer, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { type TemporaryDirectory, temporaryDirectory } from '../support/temporary-directory.ts';

const IMAGE_BYTES = 32 * MiB;

/** Until a file appears. */
const STEADY_READS = `
h = connect()
while not os.path.exists(arguments[0]):
    h.pread(65536, 0)
`;

/** Texts below the contrast of 4.5 to 1 that WCAG 2.2 asks for (success criterion 1.4.3). Runs in the browser. */
const LOW_CONTRAST_TEXTS = `(() => {
  const channels = (colour) => (colour.match(/[\\d.]+/g) ?? []).map(Number);
  const luminance = (colour) => {
    const [red, green, blue] = colour.map((channel) => {
      const share = channel / 255;
      return share <= 0.04045 ? share / 12.92 : ((share + 0.055) / 1.055) ** 2.4;
    });
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
  };
  const backgroundOf = (element) => {
    const colour = element === null ? [255, 255, 255] : channels(getComputedStyle(element).backgroundColor);
    return colour.length === 3 ? colour : backgroundOf(element.parentElement);
  };
  const isText = (node) => node.nodeType === Node.TEXT_NODE && node.textContent.trim() !== '';
  const elements = [...document.querySelectorAll('body *')].filter(
    (element) => [...element.childNodes].some(isText) && element.getClientRects().length > 0,
  );
  const low = elements.flatMap((element) => {
    const text = luminance(channels(getComputedStyle(element).color));
    const back = luminance(backgroundOf(element));
    const contrast = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
    return contrast < 4.5 ? [element.textContent + ': ' + contrast.toFixed(2)] : [];
  });
  return { count: elements.length, low };
})()`;

/** Whether anything is drawn in each canvas. */
const DRAWN_CANVASES = `[...document.querySelectorAll('.chart canvas')].map((canvas) =>
  canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data.some((value) => value !== 0))`;

/** A script that makes the page believe it is hidden, or that it is not. */
function setHidden(isHidden: boolean): string {
  return `Object.defineProperty(document, 'hidden', { value: ${isHidden}, configurable: true });
    document.dispatchEvent(new Event('visibilitychange'))`;
}

let directory: TemporaryDirectory;
let browser: Browser;
let server: NbdServer;
let url: string;

beforeAll(async () => {
  directory = await temporaryDirectory();
  const image = directory.file('image');
  await createFullImage(image, IMAGE_BYTES);
  await evict(image);
  server = await startServer([
    'file',
    image,
    '--fadvise',
    'random',
    '--export-name',
    '<b>disk</b>',
    '--unix',
    directory.file('s'),
    '--metrics',
    '0',
  ]);
  url = await statusUrl(server);
  // Root has no sandbox, and a container's /dev/shm may be tiny.
  browser = await chromium.launch({
    executablePath: '/usr/bin/chromium',
    args: ['--no-sandbox', '--disable-dev-shm-usage'],
  });
});

afterAll(async () => {
  await browser.close();
  await server.stop();
  await directory[Symbol.asyncDispose]();
});

/** A page, and everything it complains of or asks of others. */
async function openPage(options: BrowserContextOptions = {}): Promise<{ page: Page; complaints: string[] }> {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const complaints: string[] = [];
  page.on('console', (message) => complaints.push(`${message.type()}: ${message.text()}`));
  page.on('pageerror', (error) => complaints.push(String(error)));
  page.on('requestfailed', (request) => complaints.push(`failed: ${request.url()}`));
  page.on('request', (request) => {
    if (!request.url().startsWith(url)) complaints.push(`external: ${request.url()}`);
  });
  page.on('response', (response) => {
    if (response.status() !== 200) complaints.push(`${response.status()}: ${response.url()}`);
  });
  await page.goto(url);
  return { page, complaints };
}

async function textOf(page: Page, name: string): Promise<string> {
  return (await page.locator(`[data-text="${name}"]`).textContent()) ?? '';
}

/** Waits for the browser to show something. */
async function shows(page: Page, name: string, pattern: RegExp): Promise<void> {
  let text = '';
  const shown = eventually(`"${name}" is like ${pattern}`, async () => {
    text = await textOf(page, name);
    return pattern.test(text) ? true : undefined;
  });
  await shown.catch((error: unknown) => {
    throw new Error(`${String(error)}, and not "${text}"`);
  });
}

test('numbers, charts and the strip follow what happens', async () => {
  const { page, complaints } = await openPage();
  expect(await textOf(page, 'read-total')).toBe('0 B in all');
  expect(await page.locator('h3').textContent()).toContain('<b>disk</b>');
  const cells = page.locator('.strip rect');
  expect(await cells.first().getAttribute('fill-opacity')).toBe('0');
  await python(server.uri, "h = connect(); h.pread(8 << 20, 0); h.pwrite(bytearray(b'x' * 4096), 30 << 20)");
  await shows(page, 'read-total', /^8\.00 MiB in all$/);
  await shows(page, 'write-total', /^4\.00 KiB in all$/);
  await shows(page, 'connection-total', /^1 in all$/);
  await shows(page, 'export-0-resident', /^(8\.\d\d|9\.\d\d) MiB of 32\.0 MiB resident \(2[5-9] %\)$/);
  await eventually('the first cell is full', async () =>
    (await cells.first().getAttribute('fill-opacity')) === '1.00' ? true : undefined,
  );
  expect(await cells.last().getAttribute('fill-opacity')).toBe('0');
  expect(await page.locator('.strip').getAttribute('aria-label')).toContain('resident');
  expect(await page.locator('#refresh').textContent()).toBe('Updated every second.');
  // A chart each, with something drawn in it.
  const drawn = await page.evaluate(DRAWN_CANVASES);
  expect(drawn).toEqual([true, true, true]);
  expect(complaints).toEqual([]);
  await page.context().close();
});

test('rates are shown while requests flow, and fall back to zero afterwards', async () => {
  const { page, complaints } = await openPage();
  const context = page.context();
  const end = directory.file('end');
  const reading = python(server.uri, STEADY_READS, [end]);
  await shows(page, 'connections', /^1$/);
  await shows(page, 'read-rate', /^\d[\d.]* [KMG]iB\/s$/);
  await shows(page, 'request-rate', /^[1-9]/);
  await shows(page, 'latency-p99', /^[\d.]+ (µs|ms|s)$/);
  await writeFile(end, '');
  await reading;
  await shows(page, 'connections', /^0$/);
  await shows(page, 'read-rate', /^0 B\/s$/);
  expect(complaints).toEqual([]);
  await context.close();
});

test.each([
  ['light', 320],
  ['dark', 375],
  ['light', 1280],
] as const)('%s and %d pixels wide, nothing sticks out sideways', async (colorScheme, width) => {
  const { page, complaints } = await openPage({ colorScheme, viewport: { width, height: 740 } });
  await page.waitForSelector('.chart canvas');
  const scrollWidth = Number(await page.evaluate('document.documentElement.scrollWidth'));
  const background = String(await page.evaluate('getComputedStyle(document.body).backgroundColor'));
  expect(scrollWidth).toBeLessThanOrEqual(width);
  const brightness = Math.max(...(background.match(/\d+/g) ?? []).map(Number));
  expect(brightness > 128).toBe(colorScheme === 'light');
  expect(complaints).toEqual([]);
  await page.context().close();
});

test('text keeps its contrast in both colour schemes', async () => {
  for (const colorScheme of ['light', 'dark'] as const) {
    const { page } = await openPage({ colorScheme });
    await page.waitForSelector('.u-legend');
    const { count, low } = (await page.evaluate(LOW_CONTRAST_TEXTS)) as { count: number; low: string[] };
    expect(low, colorScheme).toEqual([]);
    expect(count).toBeGreaterThan(50);
    await page.context().close();
  }
});

test('without JavaScript the numbers are there, and charts are not promised', async () => {
  const { page, complaints } = await openPage({ javaScriptEnabled: false });
  expect(await textOf(page, 'read-total')).toMatch(/ [MG]iB in all$/);
  expect(await textOf(page, 'export-0-resident')).toMatch(/resident/);
  expect(await page.locator('.strip rect').count()).toBeGreaterThan(100);
  expect(await page.locator('#charts').isVisible()).toBe(false);
  expect(await page.locator('noscript meta[http-equiv="refresh"]').getAttribute('content')).toBe('5');
  expect(complaints).toEqual([]);
  await page.context().close();
});

test('a page in the background asks for nothing', async () => {
  const { page } = await openPage();
  await shows(page, 'uptime', /./);
  await page.waitForSelector('.chart canvas');
  let count = 0;
  page.on('request', () => {
    count += 1;
  });
  await page.evaluate(setHidden(true));
  // A request may have been on its way.
  await page.waitForTimeout(1500);
  expect(count).toBeLessThanOrEqual(1);
  const asked = page.waitForRequest(`${url}status.json`);
  await page.evaluate(setHidden(false));
  await asked;
  await page.context().close();
});
