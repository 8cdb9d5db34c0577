/** Stacks filters on a plugin. */
import type { Plugin } from '../plugins/plugin.ts';
import type { FilterContext, FilterSpec } from './filter.ts';
import { abandon } from './pass-through.ts';

/**
 * The plugin under all the filters, the first of which is nearest the client. The plugin is the result's own from
 * then on. Rejects, and has abandoned the plugin, when one of them cannot be put on.
 */
export async function applyFilters(
  plugin: Plugin,
  filters: readonly FilterSpec[],
  context: FilterContext,
): Promise<Plugin> {
  let filtered = plugin;
  try {
    for (const filter of filters.toReversed()) {
      filtered = await filter.open(filtered, context);
    }
    return filtered;
  } catch (error) {
    // The reason counts, not what its aftermath meets.
    await abandon(filtered).catch(() => {});
    throw error;
  }
}

/** Whether what is under the filters is only ever read, so that it can be opened read-only. */
export function isInnerReadOnly(filters: readonly FilterSpec[]): boolean {
  return filters.some((filter) => filter.isInnerReadOnly);
}
