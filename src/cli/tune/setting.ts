/** One way to run the server that is compared with others. */
import { formatSize } from '../../units/size.ts';

export type Setting =
  | { readonly cache: 'default' }
  | { readonly cache: 'none'; readonly windowCount: number; readonly windowBytes: number };

/** The baseline first, then every combination, small windows first. */
export function settingsOf(windowCounts: readonly number[], windowSizes: readonly number[]): Setting[] {
  return [
    { cache: 'default' },
    ...windowSizes.flatMap((windowBytes) =>
      windowCounts.map((windowCount) => ({ cache: 'none', windowCount, windowBytes }) as const),
    ),
  ];
}

/** As it is written on the command line of `nbd-serve file`. */
export function optionsOf(setting: Setting): string {
  return setting.cache === 'default'
    ? '--cache default'
    : `--cache none --windows ${setting.windowCount} --window-size ${formatSize(setting.windowBytes)}`;
}
