/** What is measured: matrices (a target behind a transport) of cells (a pattern of requests). */
import type { Cache, Target, Transport } from './peers.ts';

const KIB = 1024;
const MIB = 1024 * KIB;

export type Pattern = 'read' | 'write' | 'mixed';

/** fio's nbd engine keeps `depth` requests of `blockSize` bytes in flight on each connection. */
export interface FioCell {
  readonly client: 'fio';
  readonly name: string;
  readonly pattern: Pattern;
  /** At random offsets; else in order, with a part of the export for each connection. */
  readonly isRandom: boolean;
  readonly blockSize: number;
  readonly depth: number;
  readonly connections: number;
  /** Where in the export the offsets begin; else at its start. */
  readonly offset?: number;
  /** Stop after so many bytes (each at most once) instead of after a time. */
  readonly bytesMax?: number;
}

/** nbdcopy moves the whole export, out of the server or into it. */
export interface CopyCell {
  readonly client: 'nbdcopy';
  readonly name: string;
  readonly pattern: 'read' | 'write';
  readonly blockSize: number;
  readonly connections: number;
}

export type Cell = FioCell | CopyCell;

export interface Matrix {
  readonly name: string;
  readonly target: Target;
  readonly cache: Cache;
  readonly transport: Transport;
  readonly cells: readonly Cell[];
}

export interface Selection {
  /** Names of the form "matrix/cell" that do not match are left out. */
  readonly filter?: RegExp | undefined;
  /** Only the few cells of a quick look. */
  readonly isQuick: boolean;
}

const CONNECTIONS = [1, 4];
const DEPTHS = [1, 4, 32];

function sizeName(bytes: number): string {
  return bytes >= MIB ? `${bytes / MIB}m` : `${bytes / KIB}k`;
}

function fioCell(shape: Omit<FioCell, 'client' | 'name'>): FioCell {
  const { blockSize, pattern, depth, connections } = shape;
  return { client: 'fio', name: `${sizeName(blockSize)}-${pattern}-d${depth}-c${connections}`, ...shape };
}

function copyCells(): CopyCell[] {
  return (['read', 'write'] as const).map((pattern) => ({
    client: 'nbdcopy',
    name: `copy-${pattern === 'read' ? 'out' : 'in'}-c4`,
    pattern,
    blockSize: 256 * KIB,
    connections: 4,
  }));
}

/** What is in memory already: random offsets, for a fixed time. */
function cachedCells(): Cell[] {
  const each = <T, U>(values: readonly T[], make: (value: T) => U[]): U[] => values.flatMap(make);
  const isRandom = true;
  return [
    ...each(['read', 'write'] as const, (pattern) =>
      each(DEPTHS, (depth) =>
        each(CONNECTIONS, (connections) => [
          fioCell({ pattern, isRandom, blockSize: 4 * KIB, depth, connections }),
        ]),
      ),
    ),
    ...each(CONNECTIONS, (connections) => [
      fioCell({ pattern: 'mixed', isRandom, blockSize: 64 * KIB, depth: 16, connections }),
    ]),
    ...each([256 * KIB, MIB], (blockSize) =>
      each(['read', 'write'] as const, (pattern) =>
        each(CONNECTIONS, (connections) => [
          fioCell({ pattern, isRandom, blockSize, depth: 8, connections }),
        ]),
      ),
    ),
    ...copyCells(),
  ];
}

/**
 * The disk below is part of what is measured: each block at most once, from an image that is evicted before, so
 * that nobody gains from what was left in the page cache against the mode's promise.
 */
function diskCells(): Cell[] {
  return cachedCells().map((cell) => {
    if (cell.client === 'nbdcopy') {
      return cell;
    }
    const isRandom = cell.blockSize < 64 * KIB;
    // A request at a time waits for the disk each time: some tenths of a second's worth.
    const bytesMax = isRandom ? 4 * MIB * Math.max(cell.depth, 4) : 512 * MIB;
    return { ...cell, isRandom, bytesMax };
  });
}

function matrix(
  target: Target,
  cache: Cache,
  transport: Transport,
  isWanted: (cell: Cell) => boolean = () => true,
): Matrix {
  const kind = target === 'file' ? `file-${cache}` : target;
  return {
    name: `${kind}-${transport}`,
    target,
    cache,
    transport,
    cells: (cache === 'none' ? diskCells() : cachedCells()).filter(isWanted),
  };
}

/** Encryption dwarfs the differences between depths: fewer cells. */
const isForTls = ({ name }: Cell): boolean => /^(4k-\w+-d(1|32)|64k|1m|copy)/.test(name);

const MATRICES: readonly Matrix[] = [
  matrix('file', 'default', 'unix'),
  matrix('file', 'none', 'unix'),
  matrix('memory', 'default', 'unix'),
  matrix('file', 'default', 'tcp'),
  matrix('memory', 'default', 'tcp'),
  matrix('file', 'default', 'tls', isForTls),
  matrix('memory', 'default', 'tls', isForTls),
];

const QUICK: Readonly<Record<string, RegExp>> = {
  'file-default-unix': /^(4k-read-d1-c1|4k-(read|write)-d32-c1|64k-mixed-d16-c1|1m-(read|write)-d8-c1)$/,
  'file-none-unix': /^(4k-write-d32-c1|1m-read-d8-c1)$/,
  'memory-unix': /^4k-(read|write)-d32-c1$/,
  'file-default-tcp': /^4k-read-d32-c1$/,
  'file-default-tls': /^1m-read-d8-c1$/,
};

/** The matrices with the cells that are selected; those without any are left out. */
export function select({ filter, isQuick }: Selection): Matrix[] {
  return MATRICES.map((each) => ({
    ...each,
    cells: each.cells.filter(
      ({ name }) =>
        (!isQuick || QUICK[each.name]?.test(name) === true) &&
        (filter === undefined || filter.test(`${each.name}/${name}`)),
    ),
  })).filter(({ cells }) => cells.length > 0);
}
