/** A fixed set of exports. An export answers to its name only; the empty name is a name like others. */
import {
  type ExportSource,
  exportInfo,
  type OpenedExport,
  type ServedExport,
  type SharedExport,
} from '../plugins/export-source.ts';
import type { ExportInfo } from '../protocol/export-info.ts';
import type { ListedExport } from '../protocol/options/list.ts';

export class ExportRegistry implements ExportSource {
  readonly #exports: ReadonlyMap<string, ServedExport>;

  constructor(exports: readonly ServedExport[]) {
    this.#exports = new Map(exports.map((served) => [served.name, served]));
  }

  list(): readonly ListedExport[] {
    return [...this.#exports.values()];
  }

  opened(): readonly ServedExport[] {
    return [...this.#exports.values()];
  }

  describe(name: string): ExportInfo | undefined {
    const served = this.#exports.get(name);
    return served && exportInfo(served);
  }

  async open(name: string): Promise<OpenedExport | undefined> {
    const served = this.#exports.get(name);
    return served && { handle: await served.plugin.open(), info: exportInfo(served) };
  }

  shared(): readonly SharedExport[] | undefined {
    const shared: SharedExport[] = [];
    for (const { name, description, plugin } of this.#exports.values()) {
      if (plugin.sharing === undefined) {
        return undefined;
      }
      shared.push({ name, description, ...plugin.sharing });
    }
    return shared;
  }

  close(): Promise<void> {
    return this.#endAll((plugin) => plugin.close());
  }

  settle(): Promise<void> {
    return this.#endAll((plugin) => plugin.settle?.() ?? plugin.close());
  }

  abandon(): Promise<void> {
    return this.#endAll((plugin) => plugin.abandon?.() ?? plugin.close());
  }

  /** All of them, also behind one that fails. */
  async #endAll(end: (plugin: ServedExport['plugin']) => Promise<void>): Promise<void> {
    const results = await Promise.allSettled([...this.#exports.values()].map(({ plugin }) => end(plugin)));
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) {
      throw failed.reason;
    }
  }
}
