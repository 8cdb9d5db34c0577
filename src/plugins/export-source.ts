/**
 * Where a server gets its exports from: a fixed set (server/export-registry.ts), or a directory whose files come
 * and go (plugins/directory). Everything may take its time, and is then a promise.
 */
import type { ExportInfo } from '../protocol/export-info.ts';
import type { ListedExport } from '../protocol/options/list.ts';
import type { Handle, Plugin } from './plugin.ts';

/** A plugin under a name. */
export interface ServedExport {
  readonly name: string;
  /** For people; may be empty. */
  readonly description: string;
  readonly plugin: Plugin;
}

/** An export as a thread gets to know it (see `sharing` of the plugin). */
export interface SharedExport {
  readonly name: string;
  readonly description: string;
  /** URL of a module that exports `attachPlugin`. */
  readonly module: string;
  readonly data: unknown;
}

/** What a connection works with; `info` holds for as long as the handle is open. */
export interface OpenedExport {
  readonly info: ExportInfo;
  readonly handle: Handle;
}

export interface ExportSource {
  /** At most LISTED_EXPORT_COUNT_MAX. */
  list(): readonly ListedExport[] | Promise<readonly ListedExport[]>;
  /** What the protocol says of an export; undefined when there is none of that name. */
  describe(name: string): ExportInfo | undefined | Promise<ExportInfo | undefined>;
  /** Opens an export; undefined when there is none of that name. Rejects when it cannot be opened. */
  open(name: string): Promise<OpenedExport | undefined>;
  /** The exports that are open, for operators. */
  opened(): readonly ServedExport[];
  /** What worker threads need in order to serve; absent or undefined: the main thread serves alone. */
  shared?(): readonly SharedExport[] | undefined;
  /** Flushes and closes all exports, whose handles are closed; rejects when acknowledged data may be lost. */
  close(): Promise<void>;
  /** Called instead of `close` when handles are in use and stay so: flushes all exports, as their plugins' `settle`. */
  settle(): Promise<void>;
  /** Called instead of `close` when the server cannot start after all: undoes what opening has made. */
  abandon(): Promise<void>;
}

/** What the protocol says of an export. */
export function exportInfo({ name, description, plugin }: ServedExport): ExportInfo {
  return { ...plugin.info, name, description };
}
