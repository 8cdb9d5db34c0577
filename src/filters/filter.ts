/**
 * What a filter is: a plugin on top of a plugin. A Filter is the kind, as the registry knows it; a FilterSpec is
 * one `--filter` of the command line, checked before anything is opened.
 *
 * A filter keeps the contract of plugins (plugins/plugin.ts) on both sides: it hands down only what is inside its
 * inner export and legal there, and what it answers is as true as what the inner plugin answers it.
 */
import type { Logger } from '../log.ts';
import type { Plugin } from '../plugins/plugin.ts';
import { type OptionTable, type OptionValues, parseOptions } from './options.ts';

export interface FilterContext {
  readonly log: Logger;
  /** Clients are not to write, whatever the filter could do. */
  readonly isReadOnly: boolean;
  /** Called when data that was acknowledged is lost. */
  readonly onLoss: () => void;
  /** The server ends: whoever makes requests wait lets them go on. */
  readonly stopping: AbortSignal;
}

export interface FilterSpec {
  readonly name: string;
  /** True when the inner plugin is only ever read: it should be opened read-only. */
  readonly isInnerReadOnly: boolean;
  /**
   * Puts the filter on `inner`, which is its own from then on. Rejects with a FilterError where it cannot; then
   * `inner` is as it was, and still the caller's.
   */
  open(inner: Plugin, context: FilterContext): Promise<Plugin>;
}

export interface Filter {
  readonly name: string;
  /** Its options, for people. */
  readonly usage: string;
  /** What it does, in one line. */
  readonly summary: string;
  /** Throws a FilterError. `text`: what stands behind the colon; undefined without one. */
  parse(text: string | undefined): FilterSpec;
}

interface FilterDefinition<T extends OptionTable> {
  readonly name: string;
  readonly usage: string;
  readonly summary: string;
  readonly options: T;
  /** The option whose name may be left out when it comes first. */
  readonly firstOption?: keyof T & string;
  /** Throws a FilterError for options that do not go together. */
  prepare(
    values: OptionValues<T>,
  ): Omit<FilterSpec, 'name' | 'isInnerReadOnly'> & Partial<Pick<FilterSpec, 'isInnerReadOnly'>>;
}

export function defineFilter<const T extends OptionTable>(definition: FilterDefinition<T>): Filter {
  const { name, usage, summary, options, firstOption } = definition;
  return {
    name,
    usage,
    summary,
    parse: (text) => ({
      name,
      isInnerReadOnly: false,
      ...definition.prepare(parseOptions(name, options, firstOption, text)),
    }),
  };
}
