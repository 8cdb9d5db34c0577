/** A status with everything in it, to be changed by tests. */
import type { ExportStatus, Status } from '../../src/metrics/status.ts';
import { COMMANDS, Counters, LATENCY_BOUNDS, sumCounters } from '../../src/server/counters.ts';

const ZERO = sumCounters([new Counters(true).memory]);

export const EXPORT: ExportStatus = {
  name: 'disk',
  description: '',
  size: 1024 ** 3,
  isReadOnly: false,
  lossCount: 0,
  residency: { residentBytes: 3 * 2 ** 28, cellBytes: 2 ** 28, cells: [1, 0, 0.5, 1] },
};

export function fakeStatus(changes: Partial<Status> = {}): Status {
  return {
    version: '1.2.3',
    time: 1_800_000_000_000,
    uptimeSeconds: 100,
    connections: { opened: 7, current: 2, refused: 1 },
    latencyBounds: LATENCY_BOUNDS,
    commands: Object.fromEntries(COMMANDS.map((name) => [name, ZERO.commands[name]])),
    errors: { ...ZERO.errors, EIO: 2 },
    windows: { written: 30, waited: 20, evicted: 10 },
    exports: [EXPORT],
    hiddenExportCount: 0,
    loopDelay: { p50: 0.0001, p99: 0.002, max: 0.03 },
    loopBusySeconds: 12.5,
    processorSeconds: 20.25,
    memoryBytes: 80 * 1024 * 1024,
    ...changes,
  };
}

/** Commands of which `name` has been answered this often, with this many bytes, each in 3 us. */
export function commandsWith(name: string, requests: number, bytes: number): Status['commands'] {
  const status = fakeStatus();
  const buckets = LATENCY_BOUNDS.map((bound) => (bound === 4e-6 ? requests : 0)).concat(0);
  return { ...status.commands, [name]: { requests, bytes, seconds: requests * 3e-6, buckets } };
}
