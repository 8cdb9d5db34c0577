/** `nbd-serve directory <path>`. */
import { DirectoryExports } from '../plugins/directory/directory-exports.ts';
import { CommandError } from './command-error.ts';
import { fileOptions, fileServingCommand } from './file-options.ts';
import { serveExports } from './serve.ts';

/** `finish` gets the exit code. */
export function directoryCommand(finish: (code: number) => void) {
  return fileServingCommand('directory')
    .description('serve every regular file of a directory, exported under its name')
    .argument('<path>', 'the directory')
    .action(async (path, options) => {
      if (options.filter.length > 0) {
        throw new CommandError('--filter is for one export; a directory has many');
      }
      const shared = fileOptions(options);
      const { exportName: defaultName, description, cache } = options;
      finish(
        await serveExports(
          options,
          ({ log, onLoss }) =>
            DirectoryExports.open(
              { path, defaultName, description, file: { ...shared, fadvise: 'normal', onLoss } },
              log,
            ),
          { directory: path, cache },
        ),
      );
    });
}
