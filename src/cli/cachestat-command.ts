/** `nbd-serve cachestat <file...>`: what of each file is in the page cache. */
import { Command } from '@commander-js/extra-typings';
import { ASCII_GLYPHS, cellCountFor, drawMap, glyphsFor } from './cachestat/draw-map.ts';
import { jsonObject, reportFile, tableHead, tableRow } from './cachestat/file-report.ts';
import { describeError } from './command-error.ts';
import { print } from './print.ts';

const HELP = `
Columns, in pages: the file's own, then those of them that are resident, dirty, under write-back, evicted as
far as the kernel remembers, and recently evicted; then what is resident in bytes and percent. A "-" is what
the kernel cannot tell (before Linux 6.5). A file that cannot be read is named on standard error, and the exit
status is 1.`;

/** `finish` gets the exit code. */
export function cachestatCommand(finish: (code: number) => void) {
  return new Command('cachestat')
    .description('pages of each file in the page cache: resident, dirty, under write-back, recently evicted')
    .argument('<file...>', 'regular files or block devices')
    .option('--json', 'one JSON array with an object for each file: pages, bytes and percent', false)
    .option('--map', 'also draw where in each file the resident pages are, and list their ranges', false)
    .option('--ascii', 'draw with ASCII characters only, as is the default outside UTF-8 locales', false)
    .addHelpText('after', HELP)
    .action(async (paths, { json, map, ascii }) => {
      const cellCount = map ? cellCountFor(json ? undefined : process.stdout.columns) : undefined;
      const glyphs = ascii ? ASCII_GLYPHS : glyphsFor(process.env);
      let code = 0;
      let separator = '';
      print(json ? '[' : tableHead());
      for (const path of paths) {
        try {
          const report = await reportFile(path, cellCount);
          if (json) {
            print(`${separator}\n${JSON.stringify(jsonObject(report))}`);
            separator = ',';
          } else {
            print(tableRow(report));
            print(report.map === undefined ? '' : drawMap(report.map, glyphs));
          }
        } catch (error) {
          process.stderr.write(`nbd-serve: ${describeError(error)}\n`);
          code = 1;
        }
      }
      print(json ? '\n]\n' : '');
      finish(code);
    });
}
