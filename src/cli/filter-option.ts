/** `--filter name[:options]`, as often as wanted. */
import { InvalidArgumentError } from '@commander-js/extra-typings';
import type { FilterSpec } from '../filters/filter.ts';
import { FilterError } from '../filters/filter-error.ts';
import { FILTERS, parseFilter } from '../filters/registry.ts';

export const FILTER_FLAGS = '--filter <name[:options]>';
export const FILTER_DESCRIPTION =
  'put a filter on top of what is served (repeatable; the first one is nearest the client)';

export function collectFilter(text: string, before: readonly FilterSpec[]): readonly FilterSpec[] {
  try {
    return [...before, parseFilter(text)];
  } catch (error) {
    throw error instanceof FilterError ? new InvalidArgumentError(`${error.message}.`) : error;
  }
}

/** What --help says of them. */
export function filtersHelp(): string {
  const lines = FILTERS.map(
    ({ name, usage, summary }) =>
      `  ${`${name}${usage.startsWith('[') ? `[:${usage.slice(1)}` : `:${usage}`}`}\n      ${summary}`,
  );
  return `
Filters (write a comma in a value twice; COMMAND is read, write, flush, trim, zero, cache or extents):
${lines.join('\n')}`;
}
