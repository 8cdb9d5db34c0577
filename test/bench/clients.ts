/** The clients that make the load, and what they tell about it. */
import { chown, cp, mkdir } from 'node:fs/promises';
import { join } from 'node:path';
import { attempt } from '../support/command.ts';
import type { Cell, CopyCell, FioCell } from './matrices.ts';
import type { Setup } from './peers.ts';

/** A client that takes so much longer than it should hangs. */
const HANG_MS = 120_000;

/** The user without rights. */
const NOBODY = 65_534;

export interface Load {
  readonly operations: number;
  readonly bytes: number;
  readonly seconds: number;
  /** Milliseconds from submission to completion; of a mix that of the slower half. fio only. */
  readonly p99?: number;
  readonly p999?: number;
}

export interface ClientOptions {
  readonly uri: string;
  /** The longest run of a cell that has no `bytesMax`. */
  readonly seconds: number;
  /** What nbdcopy copies in. */
  readonly source: string;
  readonly signal: AbortSignal;
}

export function runClient(cell: Cell, setup: Setup, options: ClientOptions): Promise<Load> {
  return cell.client === 'fio' ? runFio(cell, setup, options) : runNbdcopy(cell, setup, options);
}

/** What a libnbd client that takes parameters in its URI needs to come in. */
export function uriWithCertificates(uri: string, { transport, certificates }: Setup): string {
  return transport === 'tls' ? `${uri}?tls-certificates=${certificates}` : uri;
}

async function runFio(cell: FioCell, setup: Setup, options: ClientOptions): Promise<Load> {
  const pattern = { read: 'read', write: 'write', mixed: 'rw' }[cell.pattern];
  const share = Math.floor(setup.size / cell.connections / cell.blockSize) * cell.blockSize;
  const command: readonly [string, ...string[]] = [
    ...(['fio', '--name=bench', '--ioengine=nbd', '--thread', '--group_reporting'] as const),
    ...['--output-format=json', '--randseed=1', `--uri=${options.uri}`],
    `--rw=${cell.isRandom ? 'rand' : ''}${pattern}`,
    ...[`--bs=${cell.blockSize}`, `--iodepth=${cell.depth}`, `--numjobs=${cell.connections}`],
    ...(cell.bytesMax === undefined
      ? [
          `--offset=${cell.offset ?? 0}`,
          `--size=${setup.size - (cell.offset ?? 0)}`,
          '--norandommap',
          '--time_based',
          `--runtime=${Math.round(options.seconds * 1000)}ms`,
        ]
      : [
          `--size=${share}`,
          `--offset_increment=${share}`,
          `--io_size=${Math.min(share, Math.floor(cell.bytesMax / cell.connections))}`,
        ]),
  ];
  const through = setup.transport === 'tls' ? await libnbdHome(setup) : undefined;
  const output = await runClientCommand(through === undefined ? command : [...through, ...command], options);
  return parseFio(output);
}

/**
 * fio cannot hand libnbd a directory of certificates, but libnbd looks into ~/.pki/libnbd of users that are not
 * root (libnbd(3), nbd_set_tls_certificates). Returns the command to run fio as such a user.
 */
async function libnbdHome({ certificates }: Setup): Promise<readonly [string, ...string[]]> {
  // Not inside: the directory of the keys is closed to others.
  const home = `${certificates}-home`;
  const folder = join(home, '.pki', 'libnbd');
  await mkdir(folder, { recursive: true });
  const isRoot = process.getuid?.() === 0;
  // nbd-server wants to see a certificate of the client's.
  for (const name of ['ca-cert.pem', 'client-cert.pem', 'client-key.pem']) {
    const copy = join(folder, name);
    await cp(join(certificates, name), copy);
    if (isRoot) {
      await chown(copy, NOBODY, NOBODY);
    }
  }
  const asNobody = ['setpriv', `--reuid=${NOBODY}`, `--regid=${NOBODY}`, '--clear-groups'];
  return ['env', `HOME=${home}`, ...(isRoot ? asNobody : [])];
}

interface FioDirection {
  readonly total_ios: number;
  readonly io_bytes: number;
  /** Milliseconds. */
  readonly runtime: number;
  readonly clat_ns: { readonly percentile?: Readonly<Record<string, number>> };
}

interface FioReport {
  readonly jobs: readonly {
    readonly error: number;
    readonly total_err?: number;
    readonly read: FioDirection;
    readonly write: FioDirection;
  }[];
}

/** The report of one group of jobs. Throws when any of them had an error, or did nothing. */
export function parseFio(output: string): Load {
  // Messages of the engine come before the report.
  const report = JSON.parse(output.slice(output.search(/^\{/m))) as FioReport;
  const directions = report.jobs.flatMap(({ error, total_err = 0, read, write }) => {
    if (error !== 0 || total_err !== 0) {
      throw new Error(`fio had an error (errno ${error})`);
    }
    return [read, write].filter(({ total_ios }) => total_ios > 0);
  });
  const sum = (pick: (direction: FioDirection) => number): number =>
    directions.reduce((total, direction) => total + pick(direction), 0);
  const worst = (percentile: string): number =>
    Math.max(...directions.map(({ clat_ns }) => clat_ns.percentile?.[percentile] ?? 0)) / 1e6;
  if (directions.length === 0) {
    throw new Error('fio did nothing');
  }
  return {
    operations: sum(({ total_ios }) => total_ios),
    bytes: sum(({ io_bytes }) => io_bytes),
    seconds: Math.max(...directions.map(({ runtime }) => runtime)) / 1000,
    p99: worst('99.000000'),
    p999: worst('99.900000'),
  };
}

async function runNbdcopy(cell: CopyCell, setup: Setup, options: ClientOptions): Promise<Load> {
  const uri = uriWithCertificates(options.uri, setup);
  const begin = performance.now();
  await runClientCommand(
    [
      ...(['nbdcopy', '--threads=4', `--connections=${cell.connections}`] as const),
      `--request-size=${cell.blockSize}`,
      // Random data has no holes; looking for them would only cost time.
      '--no-extents',
      ...(cell.pattern === 'read' ? [uri, 'null:'] : [options.source, uri]),
    ],
    options,
  );
  const seconds = (performance.now() - begin) / 1000;
  return { operations: Math.ceil(setup.size / cell.blockSize), bytes: setup.size, seconds };
}

async function runClientCommand(
  command: readonly [string, ...string[]],
  { signal, seconds }: ClientOptions,
): Promise<string> {
  let kill: (() => void) | undefined;
  try {
    const { code, stdout, stderr } = await attempt(command, {
      deadline: seconds * 1000 + HANG_MS,
      started: (child) => {
        kill = () => child.kill('SIGKILL');
        signal.addEventListener('abort', kill);
      },
    });
    if (code !== 0) {
      throw new Error(
        `${command[0]} failed (exit code ${code}): ${lastLine(stderr) ?? lastLine(stdout) ?? ''}`,
      );
    }
    return stdout;
  } catch (error) {
    // It was killed because of that.
    signal.throwIfAborted();
    throw error;
  } finally {
    if (kill !== undefined) {
      signal.removeEventListener('abort', kill);
    }
  }
}

function lastLine(text: string): string | undefined {
  return text.trim().split('\n').at(-1) || undefined;
}
