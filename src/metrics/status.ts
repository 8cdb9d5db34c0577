/** What operators are shown, as one JSON value: the status page's browser reads it as well, so no Node in here. */

/** Requests of one command, as CommandCounts of the server. */
export interface CommandStatus {
  readonly requests: number;
  readonly bytes: number;
  /** Timed requests together; of READs and WRITEs only some are timed. */
  readonly seconds: number;
  /** Timed requests by latency: one count for each bound, and one for what is above the last. */
  readonly buckets: readonly number[];
}

/** Where an export is in the host's page cache. */
export interface Residency {
  readonly residentBytes: number;
  /** Bytes of the export in each cell but the last one. */
  readonly cellBytes: number;
  /** How much of each cell is resident: 0 to 1. */
  readonly cells: readonly number[];
}

export interface ExportStatus {
  readonly name: string;
  readonly description: string;
  /** Bytes. */
  readonly size: number;
  readonly isReadOnly: boolean;
  /** Errors that cost acknowledged data: above zero FLUSH and FUA fail. Null: the export keeps no such count. */
  readonly lossCount: number | null;
  /** Null: it has no pages in the page cache, or nobody is told. */
  readonly residency: Residency | null;
}

/**
 * How late the event loop of the main thread ran its timers, in seconds, over the last quarter of a minute or so. With
 * `--threads` above 1 it serves some of the connections.
 */
export interface LoopDelay {
  readonly p50: number;
  readonly p99: number;
  readonly max: number;
}

export interface Status {
  readonly version: string;
  /** Milliseconds since 1970. */
  readonly time: number;
  readonly uptimeSeconds: number;
  readonly connections: { readonly opened: number; readonly current: number; readonly refused: number };
  /** Upper bounds of the buckets, in seconds. */
  readonly latencyBounds: readonly number[];
  readonly commands: Readonly<Record<string, CommandStatus>>;
  /** Error replies by the name of their error value. */
  readonly errors: Readonly<Record<string, number>>;
  /** Write windows so far. */
  readonly windows: { readonly written: number; readonly waited: number; readonly evicted: number };
  readonly exports: readonly ExportStatus[];
  /** Exports beyond those that are shown. */
  readonly hiddenExportCount: number;
  /** Null: measured from now on. */
  readonly loopDelay: LoopDelay | null;
  /** Seconds that the event loop of the main thread was not waiting. */
  readonly loopBusySeconds: number;
  /** Seconds of processor time, of all threads. */
  readonly processorSeconds: number;
  readonly memoryBytes: number;
}
