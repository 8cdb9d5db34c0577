/**
 * What `--threads 2` gains over one thread: cached reads over TCP, in interleaved pairs, with a client that leaves
 * the processors to the server (discard-reads.py). As root, server and client run with a real-time priority, so that
 * other work on the machine does not count. `npm run bench:threads -- --help`.
 */
import { execFile, spawn } from 'node:child_process';
import { once } from 'node:events';
import { readFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { resolve } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { Command } from '@commander-js/extra-typings';
import { integerBetween } from '../../src/cli/argument-parsers.ts';
import { createFullImage } from '../support/image.ts';
import { PYTHON } from '../support/python.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { median, table } from './statistics.ts';

const SIZE = 256 * MiB;
const SECONDS = 2;
const KiB = 1024;

/** Connections, bytes of a READ, READs in flight for each connection. */
const CASES: readonly (readonly [number, number, number])[] = [
  [4, 64 * KiB, 4],
  [4, 128 * KiB, 4],
  [1, 64 * KiB, 4],
  [1, 4 * KiB, 1],
];

/** Above everything that runs at an ordinary priority. */
const PRIORITY = process.getuid?.() === 0 ? ['chrt', '--rr', '1'] : [];

async function throughput(
  image: string,
  threads: number,
  [connections, length, depth]: readonly [number, number, number],
): Promise<number> {
  const [program = '', ...words] = [
    ...PRIORITY,
    ...[process.execPath, resolve('dist/main.js'), 'file', image, '--read-only'],
    ...['--threads', String(threads), '--port', '0', '--log-level', 'warn'],
  ];
  const server = spawn(program, words, { stdio: ['ignore', 'pipe', 'inherit'] });
  try {
    const [uri] = (await once(createInterface(server.stdout), 'line')) as [string];
    const { hostname, port } = new URL(uri);
    const figures = [connections, length, depth, SECONDS, SIZE].map(String);
    const client = [...PRIORITY, PYTHON, resolve('test/bench/discard-reads.py'), hostname, port, ...figures];
    const { stdout } = await promisify(execFile)(client[0] ?? PYTHON, client.slice(1));
    return Number(stdout);
  } finally {
    server.kill();
    await once(server, 'exit');
  }
}

const [pairCount] = new Command('npm run bench:threads --')
  .description('Measures what a second thread gains.')
  .argument('[pairs]', 'runs with one thread and with two', integerBetween(1, 1000), 5)
  .parse().processedArgs;
await using directory = await temporaryDirectory();
const image = directory.file('disk.img');
await createFullImage(image, SIZE);
await readFile(image);
const rows: string[][] = [];
for (const each of CASES) {
  const pairs: [number, number][] = [];
  for (let pair = 0; pair < pairCount; pair += 1) {
    pairs.push([await throughput(image, 1, each), await throughput(image, 2, each)]);
  }
  const [connections, length, depth] = each;
  const ratios = pairs.map(([one, two]) => two / one);
  rows.push([
    String(connections),
    `${length / KiB} KiB`,
    String(depth),
    median(pairs.map(([one]) => one)).toFixed(0),
    median(pairs.map(([, two]) => two)).toFixed(0),
    `${median(ratios).toFixed(2)} (${Math.min(...ratios).toFixed(2)}-${Math.max(...ratios).toFixed(2)})`,
  ]);
}
process.stdout.write(
  `${cpus().length} x ${cpus()[0]?.model ?? '?'}, ${pairCount} interleaved pairs, MiB/s\n\n`,
);
const header = ['connections', 'READ', 'depth', '1 thread', '2 threads', 'median ratio (range)'];
process.stdout.write(`${table(header, rows)}\n`);
