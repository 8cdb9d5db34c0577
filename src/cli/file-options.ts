/** The options of the commands that serve files, and what they mean to the file plugin. */
import { Option } from '@commander-js/extra-typings';
import { WINDOW_BYTES_DEFAULT, WINDOW_BYTES_MAX, WINDOW_COUNT_DEFAULT, WINDOW_COUNT_MAX } from '../limits.ts';
import type { CacheMode, FileOptions } from '../plugins/file/file-plugin.ts';
import { integerBetween, sizeBetween } from './argument-parsers.ts';
import { CommandError } from './command-error.ts';
import { servingCommand } from './serving-options.ts';

const PAGE_BYTES = 4096;

/** A subcommand with the options of every server and those of files. */
export function fileServingCommand(name: string) {
  return servingCommand(name)
    .addOption(
      new Option('--cache <mode>', "none: leave nothing of it in the host's page cache")
        .choices(['default', 'none'] as const)
        .default('default' as const),
    )
    .option(
      '--windows <count>',
      `with --cache none: windows of writes on their way to disk (default: ${WINDOW_COUNT_DEFAULT})`,
      integerBetween(1, WINDOW_COUNT_MAX),
    )
    .option(
      '--window-size <size>',
      `with --cache none: written bytes that fill a window (default: ${WINDOW_BYTES_DEFAULT})`,
      sizeBetween(PAGE_BYTES, WINDOW_BYTES_MAX),
    )
    .option('--keep-resident', 'with --cache none: spare what was in the page cache before', false)
    .option('--no-lock', 'take no locks on the file, neither flock nor those of QEMU');
}

export interface FileServingOptions {
  readonly readOnly: boolean;
  readonly cache: CacheMode;
  readonly windows?: number | undefined;
  readonly windowSize?: number | undefined;
  readonly keepResident: boolean;
  readonly lock: boolean;
}

/** Throws a CommandError for options that would have no effect. */
export function fileOptions(
  options: FileServingOptions,
): Omit<FileOptions, 'path' | 'createSize' | 'fadvise' | 'threadCount' | 'onLoss' | 'windowCounter'> {
  if (options.cache !== 'none') {
    refuseWithoutCacheNone(options);
  }
  return {
    isReadOnly: options.readOnly,
    cache: options.cache,
    windowCount: options.windows ?? WINDOW_COUNT_DEFAULT,
    windowBytes: options.windowSize ?? WINDOW_BYTES_DEFAULT,
    keepsResident: options.keepResident,
    hasLock: options.lock,
  };
}

/** No option is accepted and then ignored. */
function refuseWithoutCacheNone({ windows, windowSize, keepResident }: FileServingOptions): void {
  const given = [
    ...(windows === undefined ? [] : ['--windows']),
    ...(windowSize === undefined ? [] : ['--window-size']),
    ...(keepResident ? ['--keep-resident'] : []),
  ];
  if (given.length > 0) {
    throw new CommandError(`${given.join(' and ')} need${given.length > 1 ? '' : 's'} --cache none`);
  }
}
