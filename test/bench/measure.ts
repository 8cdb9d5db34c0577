/** Runs the cells of a matrix: all its servers run side by side, and take turns within each repeat of each cell. */
import { createReadStream } from 'node:fs';
import { Cleanup } from '../support/cleanup.ts';
import { PageCacheProbe } from '../support/page-cache.ts';
import { type Load, runClient } from './clients.ts';
import { cpuSeconds } from './cpu-time.ts';
import type { Cell, FioCell, Matrix } from './matrices.ts';
import type { Peer, Setup } from './peers.ts';
import { type LoopDelay, RunningPeer } from './running-peer.ts';
import { assertServes } from './same-data.ts';

/** One run of one cell against one server. */
export interface Run extends Load {
  /** Of the server, threads and child processes included. */
  readonly cpuSeconds: number;
  readonly loopDelay?: LoopDelay;
}

/** The runs of one server in one cell, one for each repeat. */
export interface Contest {
  readonly server: string;
  readonly runs: readonly Run[];
  /** Why this server has no result in this cell. */
  readonly failure?: string;
}

export interface CellResult {
  readonly cell: Cell;
  readonly contests: readonly Contest[];
}

export interface MatrixResult {
  readonly matrix: Omit<Matrix, 'cells'>;
  readonly cells: readonly CellResult[];
}

export interface Conditions {
  readonly repeats: number;
  /** Of one run of a cell that is not bounded by bytes. */
  readonly seconds: number;
  /** What is served from, and a copy of it at the start, to copy from. */
  readonly image: string;
  readonly source: string;
  readonly size: number;
  readonly certificates: string;
  /** For sockets and the like. */
  readonly folder: string;
  readonly signal: AbortSignal;
  readonly progress: (message: string) => void;
}

/** A sample every 5 ms costs a server 0.1 % at most. */
const LOOP_DELAY_RESOLUTION_MS = 5;
const WARM_UP_SECONDS = 0.2;

export async function measureMatrix(
  matrix: Matrix,
  peers: readonly Peer[],
  conditions: Conditions,
): Promise<MatrixResult> {
  const { cells, ...about } = matrix;
  const setup: Setup = { ...about, ...conditions };
  await using cleanup = new Cleanup();
  const probe = cleanup.use(await PageCacheProbe.open(conditions.image));
  await warm(setup, probe);
  const servers: Contestant[] = [];
  for (const peer of peers) {
    conditions.signal.throwIfAborted();
    const running = await RunningPeer.start(peer, setup, conditions.folder);
    if (running !== undefined) {
      cleanup.use(running);
      await assertServes(peer, running.uri, setup);
      servers.push({ peer, running });
    }
  }
  const results: CellResult[] = [];
  for (const cell of cells) {
    conditions.progress(`${matrix.name}/${cell.name}`);
    results.push({
      cell,
      contests: await measureCell(
        cell,
        servers.filter(({ peer }) => peer.onlyIn?.test(cell.name) ?? true),
        { setup, probe, conditions },
      ),
    });
  }
  return { matrix: about, cells: results };
}

interface Contestant {
  readonly peer: Peer;
  readonly running: RunningPeer;
}

interface Context {
  readonly setup: Setup;
  readonly probe: PageCacheProbe;
  readonly conditions: Conditions;
}

async function measureCell(cell: Cell, servers: readonly Contestant[], context: Context): Promise<Contest[]> {
  const runs = new Map<string, Run[]>(servers.map(({ peer }) => [peer.name, []]));
  const failures = new Map<string, string>();
  for (let repeat = 0; repeat < context.conditions.repeats; repeat += 1) {
    for (const { peer, running } of inTurn(servers, repeat)) {
      const { name } = peer;
      const own = peer.keepsNothing === true ? withoutBound(cell) : cell;
      if (failures.has(name)) {
        continue;
      }
      try {
        if (repeat === 0 && own.client === 'fio' && peer.keepsNothing !== true) {
          await measureOnce(warmUp(own), running, context, WARM_UP_SECONDS);
        }
        runs.get(name)?.push(await measureOnce(own, running, context, context.conditions.seconds));
      } catch (error) {
        context.conditions.signal.throwIfAborted();
        failures.set(name, error instanceof Error ? error.message : String(error));
      }
    }
  }
  return [...runs].map(([server, each]) => {
    const failure = failures.get(server);
    return failure === undefined ? { server, runs: each } : { server, runs: [], failure };
  });
}

/** The order for a repeat: another one begins each time, so that nobody always follows the same neighbour. */
export function inTurn<T>(contestants: readonly T[], repeat: number): T[] {
  const first = repeat % contestants.length;
  return [...contestants.slice(first), ...contestants.slice(0, first)];
}

/** For a server without a disk the bytes would be gone through in no time. */
function withoutBound(cell: Cell): Cell {
  if (cell.client === 'nbdcopy') {
    return cell;
  }
  const { bytesMax, ...unbounded } = cell;
  return unbounded;
}

/** Code that has run often enough is compiled; a server in JavaScript needs that most. */
function warmUp(cell: FioCell): FioCell {
  return cell.bytesMax === undefined ? cell : { ...cell, bytesMax: cell.bytesMax / 8 };
}

async function measureOnce(
  cell: Cell,
  server: RunningPeer,
  { setup, probe, conditions }: Context,
  seconds: number,
): Promise<Run> {
  const { source, signal } = conditions;
  signal.throwIfAborted();
  if (setup.target === 'file' && setup.cache === 'none') {
    await probe.evict();
  }
  server.startLoopDelay(LOOP_DELAY_RESOLUTION_MS);
  const before = await cpuSeconds(server.pid);
  const load = await runClient(cell, setup, { uri: server.uri, seconds, source, signal });
  const after = await cpuSeconds(server.pid);
  const loopDelay = await server.stopLoopDelay();
  if (setup.target === 'file' && cell.pattern !== 'read') {
    // The next one must not wait for the disk because of what this one has written, nor gain from the folios that
    // its writes have left in place of the large ones of read-ahead: 4 KiB writes differ by a factor of ten.
    await probe.evict();
    await warm(setup, probe);
  }
  return { ...load, cpuSeconds: after - before, ...(loopDelay && { loopDelay }) };
}

/** Brings the image into the page cache, for the cells that are about data in memory. */
async function warm({ target, cache, image, size }: Setup, probe: PageCacheProbe): Promise<void> {
  if (target === 'file' && cache === 'default') {
    const bytes = createReadStream(image, { highWaterMark: 1024 * 1024 });
    for await (const _ of bytes) {
      // Only the reading counts.
    }
    const resident = await probe.residentBytes();
    if (resident < 0.99 * size) {
      throw new Error(`Only ${resident} of ${size} bytes of the image stay in the page cache`);
    }
  }
}
