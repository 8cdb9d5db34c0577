/**
 * The options of a filter: `key=value` between commas. A comma inside a value is written twice, as QEMU does. A
 * word without `=` belongs to the option before it when that takes a list (`commands=write,flush`).
 */
import { parseDuration } from '../units/duration.ts';
import { parseSize } from '../units/size.ts';
import { FilterError } from './filter-error.ts';

export interface FilterOption<T> {
  /** Throws a FilterError that says what to give instead. */
  parse(text: string): T;
  /** True when it takes words between commas. */
  readonly isList?: boolean;
}

export type OptionTable = Readonly<Record<string, FilterOption<unknown>>>;

export type OptionValues<T extends OptionTable> = {
  readonly [Key in keyof T]?: ReturnType<T[Key]['parse']>;
};

/** `firstOption`: the option whose name may be left out when it comes first. */
export function parseOptions<T extends OptionTable>(
  filter: string,
  table: T,
  firstOption: (keyof T & string) | undefined,
  text: string | undefined,
): OptionValues<T> {
  const values: Record<string, unknown> = {};
  for (const [key, words] of group(filter, table, firstOption, text)) {
    try {
      values[key] = table[key]?.parse(words.join(','));
    } catch (error) {
      throw error instanceof FilterError
        ? new FilterError(`Filter "${filter}": ${key}: ${error.message}`)
        : error;
    }
  }
  return values as OptionValues<T>;
}

/** The words of each option. */
function group(
  filter: string,
  table: OptionTable,
  firstOption: string | undefined,
  text: string | undefined,
): ReadonlyMap<string, string[]> {
  const groups = new Map<string, string[]>();
  let last: string | undefined;
  for (const piece of text === undefined ? [] : splitAtCommas(text)) {
    const equals = piece.indexOf('=');
    if (equals >= 0) {
      const key = piece.slice(0, equals);
      if (!Object.hasOwn(table, key)) {
        throw new FilterError(`Filter "${filter}" has no option "${key}"; ${optionNames(table)}`);
      }
      if (groups.has(key)) {
        throw new FilterError(`Filter "${filter}": the option "${key}" is given twice`);
      }
      groups.set(key, [piece.slice(equals + 1)]);
      last = key;
    } else if (last !== undefined && table[last]?.isList === true) {
      groups.get(last)?.push(piece);
    } else if (last === undefined && firstOption !== undefined) {
      groups.set(firstOption, [piece]);
      last = firstOption;
    } else {
      throw new FilterError(`Filter "${filter}": "${piece}" is no key=value; ${optionNames(table)}`);
    }
  }
  return groups;
}

function splitAtCommas(text: string): string[] {
  return [...text.matchAll(/(?:^|,)((?:[^,]|,,)*)/g)].map(([, piece = '']) => piece.replaceAll(',,', ','));
}

function optionNames(table: OptionTable): string {
  const names = Object.keys(table);
  return names.length === 0 ? 'it has none' : `there are ${names.join(', ')}`;
}

/** Bytes from `min` to `max`, written as sizes are everywhere. */
export function size(min: number, max: number): FilterOption<number> {
  return {
    parse: (text) => {
      const bytes = parseSize(text);
      if (bytes === undefined || bytes < min || bytes > max) {
        throw new FilterError(`"${text}" is no size from ${min} to ${max} bytes, such as 512K or 10M`);
      }
      return bytes;
    },
  };
}

/** Milliseconds, up to `max`. */
export function duration(max: number): FilterOption<number> {
  return {
    parse: (text) => {
      const milliseconds = parseDuration(text);
      if (milliseconds === undefined || milliseconds > max) {
        throw new FilterError(`"${text}" is no time up to ${max / 1000}s, such as 10ms or 1s`);
      }
      return milliseconds;
    },
  };
}

/** A whole number from `min` to `max`. */
export function integer(min: number, max: number): FilterOption<number> {
  return {
    parse: (text) => {
      const value = /^\d+$/.test(text) ? Number(text) : Number.NaN;
      if (!(value >= min && value <= max)) {
        throw new FilterError(`"${text}" is no whole number from ${min} to ${max}`);
      }
      return value;
    },
  };
}

/** A fraction from 0 to 1, written in percent. */
export const percentage: FilterOption<number> = {
  parse: (text) => {
    const percent = /^\d+(?:\.\d+)?%$/.test(text) ? Number(text.slice(0, -1)) : Number.NaN;
    if (!(percent <= 100)) {
      throw new FilterError(`"${text}" is no percentage, such as 10% or 0.5%`);
    }
    return percent / 100;
  },
};

/** A path that is not empty. */
export const path: FilterOption<string> = {
  parse: (text) => {
    if (text === '' || text.includes('\0')) {
      throw new FilterError('Give a path');
    }
    return text;
  },
};

export function oneOf<const T extends string>(choices: readonly T[]): FilterOption<T> {
  return {
    parse: (text) => {
      const choice = choices.find((each) => each === text);
      if (choice === undefined) {
        throw new FilterError(`"${text}" is none of ${choices.join(', ')}`);
      }
      return choice;
    },
  };
}

/** Words between commas, each one of `choices`. */
export function listOf<const T extends string>(choices: readonly T[]): FilterOption<readonly T[]> {
  const { parse } = oneOf(choices);
  return { isList: true, parse: (text) => text.split(',').map(parse) };
}
