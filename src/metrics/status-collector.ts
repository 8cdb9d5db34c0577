/** Puts a status together when somebody asks, at most once a second, and never from the path of a request. */

import { createRequire } from 'node:module';
import { EXPORTS_SHOWN_MAX } from '../limits.ts';
import type { Logger } from '../log.ts';
import type { ServedExport } from '../plugins/export-source.ts';
import { COMMANDS, LATENCY_BOUNDS, sumCounters } from '../server/counters.ts';
import { LoopDelayMonitor } from './loop-delay.ts';
import { measureResidency } from './residency.ts';
import type { ExportStatus, Residency, Status } from './status.ts';

const { version } = createRequire(import.meta.url)('../../package.json') as { readonly version: string };

/** How old a status may be. */
const FRESH_MS = 1000;

/** Counting resident pages may take this part of one thread of the pool at most. */
const RESIDENCY_SHARE = 0.1;

/** It took longer than this because the machine is busy: 1 TiB of pages is counted in some 3 s. */
const RESIDENCY_PAUSE_MS_MAX = 15_000;

/** Where the numbers come from. */
export interface StatusSource {
  /** The memory of the counters of each thread that serves. */
  counterMemories(): readonly SharedArrayBuffer[];
  /** The exports that are open. */
  exports(): readonly ServedExport[];
}

/** A status and the one before it, at least a second older; what happened meanwhile is what happens now. */
export interface StatusPair {
  readonly now: Status;
  readonly before: Status | undefined;
}

/** What is known of where an export is resident, and until when that has to do. */
interface KnownResidency {
  readonly residency: Residency | null;
  readonly validUntil: number;
}

export class StatusCollector {
  readonly #source: StatusSource;
  readonly #log: Logger;
  readonly #loopDelay = new LoopDelayMonitor();
  readonly #residencies = new WeakMap<ServedExport['plugin'], KnownResidency>();
  #collecting: Promise<StatusPair> | undefined;
  #latest: StatusPair | undefined;
  #latestAt = 0;

  constructor(source: StatusSource, log: Logger) {
    this.#source = source;
    this.#log = log;
  }

  /** The latest status, or a new one when it is older than a second. Callers at a time share one. */
  collect(): Promise<StatusPair> {
    if (this.#latest !== undefined && performance.now() - this.#latestAt < FRESH_MS) {
      return Promise.resolve(this.#latest);
    }
    this.#collecting ??= this.#collect().finally(() => {
      this.#collecting = undefined;
    });
    return this.#collecting;
  }

  /** Resolves when nothing uses the exports any more. */
  async close(): Promise<void> {
    await this.#collecting;
    this.#loopDelay.stop();
  }

  async #collect(): Promise<StatusPair> {
    const served = this.#source.exports();
    const exports: ExportStatus[] = [];
    for (const one of served.slice(0, EXPORTS_SHOWN_MAX)) {
      exports.push(await this.#exportStatus(one));
    }
    const totals = sumCounters(this.#source.counterMemories());
    const { user, system } = process.cpuUsage();
    const now: Status = {
      version: version,
      time: Date.now(),
      uptimeSeconds: process.uptime(),
      connections: {
        opened: totals.connectionsOpened,
        current: totals.connectionsOpened - totals.connectionsClosed,
        refused: totals.connectionsRefused,
      },
      latencyBounds: LATENCY_BOUNDS,
      commands: Object.fromEntries(COMMANDS.map((name) => [name, totals.commands[name]])),
      errors: totals.errors,
      windows: {
        written: totals.windowsWritten,
        waited: totals.windowsWaited,
        evicted: totals.windowsEvicted,
      },
      exports,
      hiddenExportCount: served.length - exports.length,
      loopDelay: this.#loopDelay.read(),
      loopBusySeconds: performance.eventLoopUtilization().active / 1000,
      processorSeconds: (user + system) / 1e6,
      memoryBytes: process.memoryUsage.rss(),
    };
    this.#latest = { now, before: this.#latest?.now };
    this.#latestAt = performance.now();
    return this.#latest;
  }

  async #exportStatus({ name, description, plugin }: ServedExport): Promise<ExportStatus> {
    const { size, isReadOnly } = plugin.info;
    return {
      name,
      description,
      size,
      isReadOnly,
      lossCount: plugin.lossCount ?? null,
      residency: await this.#residency(plugin),
    };
  }

  async #residency(plugin: ServedExport['plugin']): Promise<Residency | null> {
    const known = this.#residencies.get(plugin);
    const startedAt = performance.now();
    if (known !== undefined && startedAt < known.validUntil) {
      return known.residency;
    }
    let residency: Residency | null = null;
    try {
      if (plugin.residentBytes !== undefined) {
        const residentBytes = plugin.residentBytes.bind(plugin);
        residency = await measureResidency(plugin.info.size, residentBytes);
      }
    } catch (error) {
      // The kernel tells only a file's owner and those who may write to it; or the export is being closed.
      this.#log.debug({ err: error }, 'What is resident cannot be told');
    }
    const endedAt = performance.now();
    const pause = Math.min((endedAt - startedAt) * (1 / RESIDENCY_SHARE - 1), RESIDENCY_PAUSE_MS_MAX);
    this.#residencies.set(plugin, { residency, validUntil: endedAt + pause });
    return residency;
  }
}
