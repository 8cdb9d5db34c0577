/** `nbd-serve file <path>`. */
import { Option } from '@commander-js/extra-typings';
import { FilePlugin } from '../plugins/file/file-plugin.ts';
import { sizeBetween } from './argument-parsers.ts';
import { fileOptions, fileServingCommand } from './file-options.ts';
import { serve } from './serve.ts';

/** `finish` gets the exit code. */
export function fileCommand(finish: (code: number) => void) {
  return fileServingCommand('file')
    .description('serve one regular file or block device')
    .argument('<path>', 'the file')
    .option('--create <size>', 'make a sparse file of this size if there is none', sizeBetween(0))
    .addOption(
      new Option('--fadvise <pattern>', 'how clients will read it, as a hint for read-ahead')
        .choices(['normal', 'random', 'sequential'] as const)
        .default('normal' as const),
    )
    .action(async (path, options) => {
      const shared = fileOptions(options);
      const { create: createSize, fadvise, cache } = options;
      finish(
        await serve(
          options,
          ({ log, ...context }) => FilePlugin.open({ ...shared, ...context, path, createSize, fadvise }, log),
          { file: path, cache },
        ),
      );
    });
}
