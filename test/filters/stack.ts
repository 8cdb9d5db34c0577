/** Filters as the command line names them, on any plugin. */
import { applyFilters } from '../../src/filters/apply.ts';
import type { FilterContext } from '../../src/filters/filter.ts';
import { parseFilter } from '../../src/filters/registry.ts';
import type { Plugin } from '../../src/plugins/plugin.ts';
import { FakeLog } from '../server/fake-log.ts';

export function filterContext(context: Partial<FilterContext> = {}): FilterContext {
  return {
    log: new FakeLog(),
    isReadOnly: false,
    onLoss: () => {},
    stopping: new AbortController().signal,
    ...context,
  };
}

/** The first one is nearest the client. */
export function filtered(
  plugin: Plugin,
  texts: readonly string[],
  context: Partial<FilterContext> = {},
): Promise<Plugin> {
  return applyFilters(plugin, texts.map(parseFilter), filterContext(context));
}
