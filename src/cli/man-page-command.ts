/** `nbd-serve man-page`, for `npm run man`: what it prints is packaged, so that it need not be in the help. */
import { Command } from '@commander-js/extra-typings';
import { manPage } from './man-page.ts';
import { outline } from './outline.ts';
import { print } from './print.ts';

export function manPageCommand() {
  return new Command('man-page')
    .description('print the manual page, for man(1)')
    .action((_options, command) => {
      if (command.parent !== null) {
        print(manPage(outline(command.parent), buildDate()));
      }
    });
}

/** Today, or the day that builds which are to be repeatable set (reproducible-builds.org, SOURCE_DATE_EPOCH). */
function buildDate(): string {
  const epoch = process.env['SOURCE_DATE_EPOCH'];
  const date = epoch === undefined ? new Date() : new Date(Number(epoch) * 1000);
  return date.toISOString().slice(0, 10);
}
