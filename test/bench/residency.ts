/**
 * What cache=none leaves in the page cache, and what it costs: nbd-serve beside nbdkit and qemu-nbd in one run,
 * interleaved. Each run starts with the image evicted and a fresh server, and ends two seconds after the client
 * has gone, while the server still runs. Prints a Markdown table of medians, and JSON with --json.
 * `npm run bench:residency -- --help`.
 */

import { randomFillSync } from 'node:crypto';
import { closeSync, openSync, readFileSync, statfsSync, statSync, writeSync } from 'node:fs';
import { arch, cpus, release } from 'node:os';
import { setTimeout as delay } from 'node:timers/promises';
import { Command, InvalidArgumentError } from '@commander-js/extra-typings';
import { sizeBetween } from '../../src/cli/argument-parsers.ts';
import { native } from '../../src/native/binding.ts';
import { call } from '../../src/native/call.ts';
import { POSIX_FADV_DONTNEED } from '../../src/native/constants.ts';
import { run as runCommand } from '../support/command.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { type Cache, NBDKIT, nbdServe, type Peer, QEMU_NBD } from './peers.ts';
import { RunningPeer } from './running-peer.ts';
import { median, table } from './statistics.ts';
import { reportFailure, stopSignal } from './stop.ts';

const MIB = 1024 * 1024;
const SAMPLE_MS = 5;
const IDLE_MS = 2000;

/** The image is filled by so much at a time. */
const BLOCK_BYTES = 4 * MIB;

function imageSize(text: string): number {
  const size = sizeBetween(64 * MIB)(text);
  if (size % BLOCK_BYTES !== 0) {
    throw new InvalidArgumentError('Give a multiple of 4 MiB.');
  }
  return size;
}

const program = new Command('npm run bench:residency --')
  .description('Measures what nbd-serve, nbdkit and qemu-nbd leave in the page cache, and what it costs.')
  .option('--quick', 'one run of each in place of three', false)
  .option('--size <size>', 'of the image', imageSize, 1024 * MIB)
  .option('--json', 'print all figures as JSON', false);

const { quick, json, size: IMAGE_BYTES } = program.parse().opts();

interface Candidate {
  readonly name: string;
  readonly peer: Peer;
  readonly cache: Cache;
}

const CANDIDATES: readonly Candidate[] = [
  { name: 'nbd-serve --cache none', peer: nbdServe('nbd-serve'), cache: 'none' },
  { name: 'nbd-serve --cache default', peer: nbdServe('nbd-serve'), cache: 'default' },
  { name: 'nbdkit cache=none', peer: NBDKIT, cache: 'none' },
  { name: 'qemu-nbd --cache=none', peer: QEMU_NBD, cache: 'none' },
];

interface Workload {
  readonly name: string;
  /** Bytes that the client moves. */
  readonly bytes: number;
  readonly isRead: boolean;
  client(uri: string, source: string): readonly [string, ...string[]];
}

interface Figures {
  readonly megabytesPerSecond: number;
  readonly peakBytes: number;
  readonly leftBytes: number;
  /** Bytes read from the disk for each byte moved. */
  readonly diskReads: number;
}

function fio(uri: string, ...words: string[]): readonly [string, ...string[]] {
  return ['fio', '--name=residency', '--ioengine=nbd', `--uri=${uri}`, '--randseed=1', ...words];
}

function sequentialRead(blockSize: string, connections: number): Workload {
  const share = IMAGE_BYTES / connections;
  return {
    name: `sequential read, ${blockSize}, ${connections} connection${connections === 1 ? '' : 's'}`,
    bytes: IMAGE_BYTES,
    isRead: true,
    client: (uri) =>
      fio(
        uri,
        '--rw=read',
        `--bs=${blockSize}`,
        '--iodepth=16',
        `--numjobs=${connections}`,
        `--size=${IMAGE_BYTES}`,
        `--offset_increment=${share}`,
        `--io_size=${share}`,
      ),
  };
}

const WORKLOADS: readonly Workload[] = [
  {
    name: 'nbdcopy in, 4 connections',
    bytes: IMAGE_BYTES,
    isRead: false,
    client: (uri, source) => ['nbdcopy', '--threads=4', '--connections=4', source, uri],
  },
  {
    // Without it a server that leaves the writing to later is done before the disk is.
    name: 'nbdcopy in, 4 connections, --flush',
    bytes: IMAGE_BYTES,
    isRead: false,
    client: (uri, source) => ['nbdcopy', '--threads=4', '--connections=4', '--flush', source, uri],
  },
  {
    name: 'nbdcopy out, 4 connections',
    bytes: IMAGE_BYTES,
    isRead: true,
    client: (uri) => ['nbdcopy', '--threads=4', '--connections=4', uri, 'null:'],
  },
  ...['4k', '64k', '256k', '1m'].flatMap((size) => [sequentialRead(size, 1), sequentialRead(size, 4)]),
  ...['write', 'randwrite'].map((pattern) => ({
    name: `${pattern === 'write' ? 'sequential' : 'random'} write, 4k, depth 32`,
    bytes: 256 * MIB,
    isRead: false,
    client: (uri: string) =>
      fio(
        uri,
        `--rw=${pattern}`,
        '--bs=4k',
        '--iodepth=32',
        `--size=${IMAGE_BYTES}`,
        `--io_size=${256 * MIB}`,
      ),
  })),
  {
    name: 'random write, unaligned 5 KiB, depth 32',
    bytes: 64 * MIB,
    isRead: false,
    client: (uri) =>
      fio(
        uri,
        '--rw=randwrite',
        '--bs=5k',
        '--ba=512',
        '--iodepth=32',
        `--size=${IMAGE_BYTES}`,
        `--io_size=${64 * MIB}`,
      ),
  },
];

/** Sectors of 512 bytes that the disk below a file has read (Documentation/admin-guide/iostats.rst, field 3). */
function diskReadBytes(path: string): number {
  const { dev } = statSync(path);
  const major = (dev >> 8) & 0xfff;
  const minor = (dev & 0xff) | ((dev >> 12) & 0xfff00);
  const fields = readFileSync(`/sys/dev/block/${major}:${minor}/stat`, 'utf8').trim().split(/\s+/);
  return Number(fields[2]) * 512;
}

async function residentBytes(fd: number): Promise<number> {
  const counts = new Float64Array(5);
  await call((done) => {
    native.cachestat(fd, 0, 0, counts, done);
  });
  return (counts[0] ?? 0) * native.page_size;
}

async function evict(fd: number): Promise<void> {
  await call((done) => {
    native.fdatasync(fd, done);
  });
  await call((done) => {
    native.posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED, done);
  });
  if ((await residentBytes(fd)) > 0) {
    throw new Error('The image cannot be evicted');
  }
}

/** The most that was resident at a time, until it is disposed of. */
class PeakResidency implements AsyncDisposable {
  bytes = 0;
  #isSampling = true;
  readonly #sampling: Promise<void>;

  constructor(fd: number) {
    this.#sampling = this.#sample(fd);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#isSampling = false;
    await this.#sampling;
  }

  async #sample(fd: number): Promise<void> {
    while (this.#isSampling) {
      this.bytes = Math.max(this.bytes, await residentBytes(fd));
      await delay(SAMPLE_MS);
    }
  }
}

async function measure(
  { peer, cache }: Candidate,
  workload: Workload,
  { folder, signal, ...files }: Conditions,
): Promise<Figures> {
  signal.throwIfAborted();
  await evict(files.imageFd);
  await using peak = new PeakResidency(files.imageFd);
  await using server = await RunningPeer.start(
    peer,
    {
      target: 'file',
      transport: 'unix',
      cache,
      image: files.image,
      size: IMAGE_BYTES,
      certificates: '',
    },
    folder,
  );
  if (server === undefined) {
    throw new Error(`${peer.name} has no cache=${cache}`);
  }
  signal.throwIfAborted();
  const readBefore = diskReadBytes(files.image);
  const begin = performance.now();
  await run(workload.client(server.uri, files.source), signal);
  const seconds = (performance.now() - begin) / 1000;
  const readAfter = diskReadBytes(files.image);
  await delay(IDLE_MS, undefined, { signal });
  return {
    megabytesPerSecond: workload.bytes / MIB / seconds,
    peakBytes: peak.bytes,
    leftBytes: await residentBytes(files.imageFd),
    diskReads: (readAfter - readBefore) / workload.bytes,
  };
}

/** A client, which an abort of the signal ends. */
async function run(command: readonly [string, ...string[]], signal: AbortSignal): Promise<void> {
  let kill = (): void => {};
  try {
    await runCommand(command, {
      started: (child) => {
        kill = () => void child.kill();
        signal.addEventListener('abort', kill);
      },
    });
  } finally {
    signal.removeEventListener('abort', kill);
  }
}

interface Conditions {
  readonly folder: string;
  readonly signal: AbortSignal;
  readonly image: string;
  readonly imageFd: number;
  /** What is copied in; it stays in the page cache. */
  readonly source: string;
}

function fill(path: string): number {
  const fd = openSync(path, 'w+');
  const block = Buffer.alloc(BLOCK_BYTES);
  for (let written = 0; written < IMAGE_BYTES; written += block.length) {
    randomFillSync(block);
    writeSync(fd, block);
  }
  return fd;
}

async function main(signal: AbortSignal): Promise<void> {
  const repeats = quick ? 1 : 3;
  await using folder = await temporaryDirectory();
  const [image, source] = [folder.file('image'), folder.file('source')];
  closeSync(fill(source));
  const imageFd = fill(image);
  const conditions = { folder: folder.path, signal, image, source, imageFd };
  const results = new Map<string, Figures[]>();
  for (let repeat = 0; repeat < repeats; repeat += 1) {
    for (const workload of WORKLOADS) {
      for (const candidate of CANDIDATES) {
        const figures = await measure(candidate, workload, conditions);
        const key = `${workload.name}\n${candidate.name}`;
        results.set(key, [...(results.get(key) ?? []), figures]);
        process.stderr.write(`${repeat + 1}/${repeats} ${workload.name}: ${candidate.name}\n`);
      }
    }
  }
  closeSync(imageFd);
  const medians = WORKLOADS.flatMap((workload) =>
    CANDIDATES.map((candidate) => {
      const runs = results.get(`${workload.name}\n${candidate.name}`) ?? [];
      const middle = (pick: (figures: Figures) => number): number => median(runs.map(pick));
      return {
        workload: workload.name,
        isRead: workload.isRead,
        peer: candidate.name,
        megabytesPerSecond: middle((figures) => figures.megabytesPerSecond),
        peakBytes: Math.max(...runs.map(({ peakBytes }) => peakBytes)),
        leftBytes: Math.max(...runs.map(({ leftBytes }) => leftBytes)),
        diskReads: middle((figures) => figures.diskReads),
      };
    }),
  );
  const machine = `${cpus().length} x ${cpus()[0]?.model.trim()}, Linux ${release()} ${arch()}, Node ${process.version}`;
  const { type } = statfsSync(folder.path);
  if (json) {
    process.stdout.write(`${JSON.stringify({ machine, fileSystem: type, repeats, medians }, null, 2)}\n`);
    return;
  }
  process.stdout.write(`${machine}; medians of ${repeats}, peak and rest: the worst of them\n\n`);
  const rows = medians.map((row) => [
    row.workload,
    row.peer,
    row.megabytesPerSecond.toFixed(0),
    (row.peakBytes / MIB).toFixed(1),
    `${((100 * row.leftBytes) / IMAGE_BYTES).toFixed(2)} %`,
    row.isRead ? `${row.diskReads.toFixed(2)}x` : '',
  ]);
  process.stdout.write(
    `${table(['workload', 'server', 'MiB/s', 'peak MiB', 'left after 2 s', 'disk reads'], rows)}\n`,
  );
}

const signal = stopSignal();
try {
  await main(signal);
} catch (error) {
  reportFailure(signal.aborted ? signal.reason : error);
}
