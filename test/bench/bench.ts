/**
 * nbd-serve beside nbdkit, qemu-nbd and nbd-server in one run: `npm run bench -- --help`.
 */

import { randomFillSync } from 'node:crypto';
import { once } from 'node:events';
import { createWriteStream } from 'node:fs';
import { mkdir, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { Command, InvalidArgumentError } from '@commander-js/extra-typings';
import { integerBetween, sizeBetween } from '../../src/cli/argument-parsers.ts';
import { attempt, run } from '../support/command.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { drawMatrix, loadChartLibrary } from './chart.ts';
import { compileFloor } from './floor.ts';
import { select } from './matrices.ts';
import { type MatrixResult, measureMatrix } from './measure.ts';
import { NBD_SERVER, NBDKIT, nbdServe, type Peer, PROGRAM, QEMU_NBD } from './peers.ts';
import { describeMatrix, describeMeans, OURS } from './report.ts';
import { reportFailure, stopSignal } from './stop.ts';
import { describeSurroundings } from './surroundings.ts';
import {
  describeUnderFire,
  FIRES,
  type Fire,
  measureUnderFire,
  UNDER_FIRE,
  type UnderFireResult,
} from './under-fire.ts';

const MIB = 1024 * 1024;

function collect(text: string, before: readonly string[]): readonly string[] {
  return [...before, text];
}

function regularExpression(text: string): RegExp {
  try {
    return new RegExp(text);
  } catch {
    throw new InvalidArgumentError('Give a regular expression.');
  }
}

const program = new Command('npm run bench --')
  .description('Measures nbd-serve beside nbdkit, qemu-nbd and nbd-server, interleaved, and prints tables.')
  .option('--quick', 'a few cells, short runs: less than two minutes', false)
  .option('--filter <regexp>', 'only the cells whose name (matrix/cell) matches', regularExpression)
  .option('--list', 'print the names of the cells and end', false)
  .option(
    '--repeats <count>',
    'runs of each server in each cell (default: 5, quick: 2)',
    integerBetween(1, 1000),
  )
  .option(
    '--milliseconds <count>',
    'length of a run (default: 1000, quick: 300)',
    integerBetween(50, 600_000),
  )
  .option('--size <size>', 'of the image (default: 512M, quick: 128M)', sizeBetween(16 * MIB))
  .option('--program <main.js>', 'the nbd-serve to measure', PROGRAM)
  .option('--no-peers', 'nbd-serve and the floor only')
  .option('--no-floor', 'without the floor')
  .option('--variant <options>', 'also nbd-serve with these options; repeatable', collect, [])
  .option('--build <main.js>', 'also the nbd-serve at this path; repeatable', collect, [])
  .option('--json <file>', 'write all figures of all runs')
  .option('--charts <directory>', 'draw a chart for each matrix, MATRIX.svg');

type Options = ReturnType<typeof program.opts>;

async function contestants(options: Options, folder: string): Promise<Peer[]> {
  const main = options.program;
  const floor = options.floor ? await compileFloor(folder, warn) : undefined;
  const peers = [
    nbdServe(OURS, main),
    ...options.variant.map((words) => nbdServe(`${OURS} ${words}`, main, words.split(/\s+/))),
    // Polling costs CPU time by design: what a request costs without it is told beside it.
    ...((await hasBusyPoll(main))
      ? [{ ...nbdServe(`${OURS} --busy-poll 0`, main, ['--busy-poll', '0']), onlyIn: /^4k-/ }]
      : []),
    ...options.build.map((path) => nbdServe(`${OURS} of ${path}`, path)),
    ...(options.peers ? [NBDKIT, QEMU_NBD, NBD_SERVER] : []),
    ...(floor === undefined ? [] : [floor]),
  ];
  // One asked for may be one of the others.
  return peers.filter(({ name }, index) => peers.findIndex((peer) => peer.name === name) === index);
}

function warn(message: string): void {
  process.stderr.write(`${message}\n`);
}

/** Random bytes: no holes, nothing to compress. */
async function fill(path: string, size: number): Promise<void> {
  const file = createWriteStream(path);
  for (let written = 0; written < size; written += 4 * MIB) {
    const block = randomFillSync(Buffer.alloc(Math.min(4 * MIB, size - written)));
    await new Promise((done) => file.write(block, done));
  }
  await once(file.end(), 'close');
}

async function helpOf(main: string, command: string): Promise<string> {
  return (await attempt([process.execPath, main, command, '--help'])).stdout;
}

async function canServeMemory(main: string): Promise<boolean> {
  return (await helpOf(main, 'memory')).includes('memory [options] <size>');
}

/** It takes minutes, a block device and a mount. */
function selectFires({ quick, filter }: Options): Fire[] {
  const selected = FIRES.filter((fire) => !quick && (filter?.test(`${UNDER_FIRE}/${fire}`) ?? true));
  if (selected.length > 0 && process.getuid?.() !== 0) {
    warn(`Skipped: ${UNDER_FIRE} needs root, for a loop device`);
    return [];
  }
  return selected;
}

async function hasBusyPoll(main: string): Promise<boolean> {
  return (await helpOf(main, 'file')).includes('--busy-poll');
}

async function bench(options: Options, signal: AbortSignal): Promise<number> {
  let matrices = select({ filter: options.filter, isQuick: options.quick });
  if (options.list) {
    const names = matrices.flatMap(({ name, cells }) => cells.map((cell) => `${name}/${cell.name}`));
    const fires = selectFires(options).map((fire) => `${UNDER_FIRE}/${fire}`);
    process.stdout.write([...names, ...fires].map((name) => `${name}\n`).join(''));
    return 0;
  }
  if (matrices.some(({ target }) => target === 'memory') && !(await canServeMemory(options.program))) {
    warn('Skipped: this nbd-serve has no command "memory"');
    matrices = matrices.filter(({ target }) => target !== 'memory');
  }
  const fires = selectFires(options);
  if (matrices.length + fires.length === 0) {
    warn('No cell is selected');
    return 1;
  }
  const charts = options.charts === undefined ? undefined : await loadChartLibrary();
  await using folder = await temporaryDirectory();
  const peers = await contestants(options, folder.path);
  const [repeats, size] = [
    options.repeats ?? (options.quick ? 2 : 5),
    options.size ?? (options.quick ? 128 : 512) * MIB,
  ];
  const seconds = (options.milliseconds ?? (options.quick ? 300 : 1000)) / 1000;
  const conditions = {
    ...{ repeats, seconds, size, signal, folder: folder.path, progress: warn },
    ...{ source: folder.file('source'), certificates: folder.file('pki') },
  };
  await fill(conditions.source, size);
  if (matrices.some(({ transport }) => transport === 'tls')) {
    await run([process.execPath, options.program, 'tls-init', conditions.certificates]);
  }
  const surroundings = await describeSurroundings(folder.path);
  process.stdout.write(`${surroundings.text}; ${repeats} runs of each\n`);
  const results: MatrixResult[] = [];
  let underFire: UnderFireResult[] = [];
  // After each matrix: a long run that is cut short leaves what it has.
  const save = async (): Promise<void> => {
    if (options.json !== undefined) {
      const report = { ...surroundings, repeats, seconds, size, results, underFire };
      await writeFile(options.json, `${JSON.stringify(report, null, 1)}\n`);
    }
    const last = results.at(-1);
    if (options.charts !== undefined && charts !== undefined && last !== undefined) {
      await mkdir(options.charts, { recursive: true });
      const subtext = `${surroundings.text.replace(' Linux', '\nLinux')}; medians of ${repeats}`;
      await writeFile(join(options.charts, `${last.matrix.name}.svg`), drawMatrix(charts, last, subtext));
    }
  };
  for (const matrix of matrices) {
    const result = await measureMatrix(matrix, peers, conditions);
    results.push(result);
    process.stdout.write(`\n${describeMatrix(result)}\n`);
    await save();
  }
  if (fires.length > 0) {
    underFire = await measureUnderFire(fires, peers, conditions);
    await save();
    process.stdout.write(`\n${describeUnderFire(underFire)}\n`);
  }
  if (results.length > 0) {
    process.stdout.write(`\n${describeMeans(results)}\n`);
  }
  return results.some(({ cells }) => cells.some(({ contests }) => contests.some(({ failure }) => failure)))
    ? 1
    : 0;
}

try {
  process.exitCode = await bench(program.parse().opts(), stopSignal());
} catch (error) {
  reportFailure(error);
}
