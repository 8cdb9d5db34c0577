/** A server's metrics, as Prometheus reads them. */
import { resolve } from 'node:path';
import { attempt } from './command.ts';
import { eventually } from './polling.ts';
import type { NbdServer } from './server.ts';

const PROMTOOL_FOLDER = resolve('.test-tools/usr/bin');

/** Where the status page is; its port was picked by the server. */
export function statusUrl(server: NbdServer): Promise<string> {
  return eventually('the log tells the URL of the status page', () => {
    const url = server.log.find(({ msg }) => msg?.startsWith('Metrics and the status page') === true)?.[
      'url'
    ];
    return url === undefined ? undefined : String(url);
  });
}

/** The samples at a URL by their names and labels. */
export async function scrape(url: string): Promise<Map<string, number>> {
  const response = await fetch(new URL('/metrics', url));
  if (!response.ok) throw new Error(`HTTP status ${response.status}`);
  const lines = (await response.text()).split('\n').filter((line) => line !== '' && !line.startsWith('#'));
  return new Map(
    lines.map((line) => {
      const space = line.lastIndexOf(' ');
      return [line.slice(0, space), Number(line.slice(space + 1))];
    }),
  );
}

/** Scrapes until what is found is as wanted: the numbers may be a second old. */
export async function scrapeUntil(
  url: string,
  isWanted: (samples: ReadonlyMap<string, number>) => boolean,
): Promise<Map<string, number>> {
  let found = new Map<string, number>();
  const wanted = eventually(
    'the metrics are as wanted',
    async () => {
      found = await scrape(url);
      return isWanted(found) ? found : undefined;
    },
    30_000,
  );
  return wanted.catch((error: unknown) => {
    throw new Error(`${String(error)}: ${JSON.stringify([...found])}`);
  });
}

/** What Prometheus' own checker has to say of a text; empty when it is content. */
export async function promtoolComplaints(text: string): Promise<string> {
  const environment = { PATH: `${PROMTOOL_FOLDER}:${process.env['PATH'] ?? ''}` };
  const { code, stdout, stderr } = await attempt(['promtool', 'check', 'metrics'], {
    input: text,
    environment,
  });
  return code === 0 ? stdout + stderr : `promtool exits with ${code}: ${stdout}${stderr}`;
}
