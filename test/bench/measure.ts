/** Runs the cells of a matrix: all its servers run side by side, and take turns within each repeat of each cell. */
import { createReadStream } from 'node:fs';
import { rm } from 'node:fs/promises';
import { join } from 'node:path';
import { Cleanup } from '../support/cleanup.ts';
import { run } from '../support/command.ts';
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
  /** What images are copies of at the start, and what exports in memory are filled with. */
  readonly source: string;
  readonly size: number;
  readonly certificates: string;
  /** For images, sockets and the like. */
  readonly folder: string;
  readonly signal: AbortSignal;
  readonly progress: (message: string) => void;
}

/** A sample every 5 ms costs a server 0.1 % at most. */
const LOOP_DELAY_RESOLUTION_MS = 5;
const WARM_UP_SECONDS = 0.2;
const WARM_TRIES = 5;

export async function measureMatrix(
  matrix: Matrix,
  peers: readonly Peer[],
  conditions: Conditions,
): Promise<MatrixResult> {
  const { cells, ...about } = matrix;
  await using cleanup = new Cleanup();
  const setups: Setup[] = [];
  for (const index of peers.keys()) {
    const setup = { ...about, ...conditions, image: conditions.source };
    if (about.target === 'file') {
      setup.image = join(conditions.folder, `image-${index}`);
      cleanup.defer(() => rm(setup.image, { force: true }));
      await run(['cp', '--reflink=never', conditions.source, setup.image]);
    }
    setups.push(setup);
  }
  const results: CellResult[] = [];
  let stage = cleanup.use(await Stage.open(peers, setups, conditions));
  let isWritten = false;
  for (const cell of cells) {
    conditions.progress(`${matrix.name}/${cell.name}`);
    if (isWritten && isInPageCache(about)) {
      await stage[Symbol.asyncDispose]();
      stage = cleanup.use(await Stage.open(peers, setups, conditions));
    }
    isWritten = cell.pattern !== 'read';
    const servers = stage.contestants.filter(({ peer }) => peer.onlyIn?.test(cell.name) ?? true);
    results.push({ cell, contests: await measureCell(cell, servers, conditions) });
  }
  return { matrix: about, cells: results };
}

interface Contestant {
  readonly peer: Peer;
  readonly setup: Setup;
  readonly probe: PageCacheProbe;
  readonly running: RunningPeer;
}

/** The servers of a comparison, side by side, each with an image of its own. Disposing of it ends them. */
class Stage implements AsyncDisposable {
  readonly contestants: Contestant[] = [];
  readonly #cleanup = new Cleanup();

  /** Images that are served from the page cache are read into it anew: what others have written shows in their speed. */
  static async open(
    peers: readonly Peer[],
    setups: readonly Setup[],
    conditions: Conditions,
  ): Promise<Stage> {
    const stage = new Stage();
    try {
      for (const [index, peer] of peers.entries()) {
        const setup = setups[index];
        if (setup !== undefined) {
          conditions.signal.throwIfAborted();
          await stage.#start(peer, setup, conditions);
        }
      }
    } catch (error) {
      await stage[Symbol.asyncDispose]();
      throw error;
    }
    return stage;
  }

  async #start(peer: Peer, setup: Setup, { folder }: Conditions): Promise<void> {
    const probe = this.#cleanup.use(await PageCacheProbe.open(setup.image));
    if (isInPageCache(setup) && peer.keepsNothing !== true) {
      await probe.evict();
      await warm(setup, probe);
    }
    const running = await RunningPeer.start(peer, setup, folder);
    if (running !== undefined) {
      this.#cleanup.use(running);
      await assertServes(peer, running.uri, setup);
      this.contestants.push({ peer, setup, probe, running });
    }
  }

  [Symbol.asyncDispose](): Promise<void> {
    return this.#cleanup[Symbol.asyncDispose]();
  }
}

function isInPageCache({ target, cache }: Pick<Setup, 'target' | 'cache'>): boolean {
  return target === 'file' && cache === 'default';
}

async function measureCell(
  cell: Cell,
  servers: readonly Contestant[],
  conditions: Conditions,
): Promise<Contest[]> {
  const runs = new Map<string, Run[]>(servers.map(({ peer }) => [peer.name, []]));
  const failures = new Map<string, string>();
  for (let repeat = 0; repeat < conditions.repeats; repeat += 1) {
    for (const contestant of inTurn(servers, repeat)) {
      const { peer } = contestant;
      const { name } = peer;
      const own = peer.keepsNothing === true ? withoutBound(cell) : cell;
      if (failures.has(name)) {
        continue;
      }
      try {
        if (repeat === 0 && own.client === 'fio' && peer.keepsNothing !== true) {
          await measureOnce(warmUp(own), contestant, conditions, WARM_UP_SECONDS);
        }
        runs.get(name)?.push(await measureOnce(own, contestant, conditions, conditions.seconds));
      } catch (error) {
        conditions.signal.throwIfAborted();
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
  { setup, probe, running: server }: Contestant,
  { source, signal }: Conditions,
  seconds: number,
): Promise<Run> {
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
    // The next one must not wait for the disk because of what this one has written.
    await probe.sync();
  }
  return { ...load, cpuSeconds: after - before, ...(loopDelay && { loopDelay }) };
}

/** Brings the image into the page cache. The kernel may take some of it back at once, where it pages out what is cold. */
async function warm({ image, size }: Setup, probe: PageCacheProbe): Promise<void> {
  let resident = 0;
  for (let attempt = 0; attempt < WARM_TRIES && resident < 0.99 * size; attempt += 1) {
    const bytes = createReadStream(image, { highWaterMark: 1024 * 1024 });
    for await (const _ of bytes) {
      // Only the reading counts.
    }
    resident = await probe.residentBytes();
  }
  if (resident < 0.99 * size) {
    throw new Error(`Only ${resident} of ${size} bytes of the image stay in the page cache`);
  }
}
