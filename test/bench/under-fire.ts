/**
 * Latency under fire: one client keeps a slow disk busy, another reads what is in the page cache, through the same
 * server. What the first one waits for must not make the second one wait.
 */
import { setTimeout as delay } from 'node:timers/promises';
import { Cleanup } from '../support/cleanup.ts';
import { run } from '../support/command.ts';
import { PageCacheProbe } from '../support/page-cache.ts';
import { type Load, runClient } from './clients.ts';
import type { FioCell } from './matrices.ts';
import { type Conditions, inTurn } from './measure.ts';
import type { Peer, Setup } from './peers.ts';
import { type LoopDelay, RunningPeer } from './running-peer.ts';
import { makeSlowDisk } from './slow-disk.ts';
import { median, table } from './statistics.ts';

const MIB = 1024 * 1024;
const DISK_BYTES = 1024 * MIB;
/** At the start of the disk; read before, and left alone by the fire. */
const CACHED_BYTES = 8 * MIB;
const DELAY_MS = 5;
/** So long the fire burns before and behind what is measured. */
const MARGIN_SECONDS = 0.5;
const LOOP_DELAY_RESOLUTION_MS = 1;

export const UNDER_FIRE = 'under-fire';

/** The fires: reads from the disk; writes that begin and end inside pages that have to be read first. */
export const FIRES = ['reads', 'unaligned-writes'] as const;

export type Fire = (typeof FIRES)[number];

const READER: FioCell = {
  client: 'fio',
  name: 'cached',
  pattern: 'read',
  isRandom: true,
  blockSize: 4096,
  depth: 1,
  connections: 1,
};

const FIRE_CELLS: Readonly<Record<Fire, FioCell>> = {
  reads: { ...READER, name: 'reads', blockSize: 64 * 1024, depth: 32 },
  'unaligned-writes': { ...READER, name: 'writes', pattern: 'write', blockSize: 5 * 512, depth: 32 },
};

export interface UnderFireRun {
  readonly cached: Load;
  /** What the disk could do meanwhile. */
  readonly fire: Load;
  readonly loopDelay?: LoopDelay;
}

export interface UnderFireResult {
  readonly fire: Fire;
  readonly contests: readonly { readonly server: string; readonly runs: readonly UnderFireRun[] }[];
}

export async function measureUnderFire(
  fires: readonly Fire[],
  peers: readonly Peer[],
  conditions: Conditions,
): Promise<UnderFireResult[]> {
  await using cleanup = new Cleanup();
  const disk = cleanup.use(await makeSlowDisk(conditions.folder, DISK_BYTES, DELAY_MS));
  const probe = cleanup.use(await PageCacheProbe.open(disk.path));
  const setup: Setup = {
    target: 'file',
    cache: 'default',
    transport: 'unix',
    image: disk.path,
    size: DISK_BYTES,
    isShared: true,
    certificates: conditions.certificates,
  };
  const servers: { readonly name: string; readonly running: RunningPeer; readonly runs: UnderFireRun[] }[] =
    [];
  for (const peer of peers.filter(
    ({ keepsNothing, onlyIn }) => keepsNothing !== true && onlyIn === undefined,
  )) {
    conditions.signal.throwIfAborted();
    const running = await RunningPeer.start(peer, setup, conditions.folder);
    if (running !== undefined) {
      servers.push({ name: peer.name, running: cleanup.use(running), runs: [] });
    }
  }
  const results: UnderFireResult[] = [];
  for (const fire of fires) {
    conditions.progress(`${UNDER_FIRE}/${fire}`);
    for (let repeat = 0; repeat < conditions.repeats; repeat += 1) {
      for (const { running, runs } of inTurn(servers, repeat)) {
        await probe.evict();
        await run(['dd', `if=${disk.path}`, 'of=/dev/null', 'bs=1M', `count=${CACHED_BYTES / MIB}`]);
        runs.push(await measureOnce(FIRE_CELLS[fire], running, setup, conditions));
      }
    }
    results.push({
      fire,
      contests: servers.map(({ name, runs }) => ({ server: name, runs: runs.splice(0) })),
    });
  }
  return results;
}

async function measureOnce(
  fireCell: FioCell,
  running: RunningPeer,
  setup: Setup,
  { seconds, source, signal }: Conditions,
): Promise<UnderFireRun> {
  const options = { uri: running.uri, source, signal };
  const fire = runClient({ ...fireCell, offset: CACHED_BYTES }, setup, {
    ...options,
    seconds: seconds + 2 * MARGIN_SECONDS,
  });
  const cached = delay(MARGIN_SECONDS).then(async () => {
    running.startLoopDelay(LOOP_DELAY_RESOLUTION_MS);
    const load = await runClient(READER, { ...setup, size: CACHED_BYTES }, { ...options, seconds });
    return { load, loopDelay: await running.stopLoopDelay() };
  });
  const [{ load, loopDelay }, burnt] = await Promise.all([cached, fire]);
  return { cached: load, fire: burnt, ...(loopDelay && { loopDelay }) };
}

/** A row for each server: how its quick client fared, and its event loop where it has one. */
export function describeUnderFire(results: readonly UnderFireResult[]): string {
  const rows = results.flatMap(({ fire, contests }) =>
    contests.map(({ server, runs }) => {
      const middle = (pick: (run: UnderFireRun) => number | undefined): string => {
        const value = median(runs.map(pick).map((each) => each ?? Number.NaN));
        return Number.isFinite(value) ? value.toFixed(2) : '-';
      };
      return [
        fire,
        server,
        middle(({ cached }) => cached.operations / cached.seconds / 1000),
        middle(({ cached }) => cached.p99),
        middle(({ cached }) => cached.p999),
        middle(({ loopDelay }) => loopDelay?.p999),
        middle((run) => run.fire.operations / run.fire.seconds),
      ];
    }),
  );
  const header = [
    ...['fire', 'server', 'cached reads (k/s)', 'p99 (ms)', 'p99.9 (ms)'],
    ...['event loop p99.9 (ms)', 'from the disk (/s)'],
  ];
  const title = `Cached 4 KiB reads at depth 1 while another client keeps a disk busy (${DELAY_MS} ms a request):`;
  return [`### ${UNDER_FIRE}`, title, table(header, rows)].join('\n\n');
}
