/** The command line as a whole: subcommands, help, version, and errors as one line. */
import { createRequire } from 'node:module';
import { Command, CommanderError } from '@commander-js/extra-typings';
import { cachestatCommand } from './cachestat-command.ts';
import { describeError } from './command-error.ts';
import { completionCommand } from './completion-command.ts';
import { directoryCommand } from './directory-command.ts';
import { fileCommand } from './file-command.ts';
import { manPageCommand } from './man-page-command.ts';
import { memoryCommand } from './memory-command.ts';
import { pluginCommand } from './plugin-command.ts';
import { tlsInitCommand } from './tls-init-command.ts';
import { tuneCommand } from './tune-command.ts';

const { version } = createRequire(import.meta.url)('../../package.json') as { readonly version: string };

/** Runs the command line (without the interpreter's two words). Resolves with the exit code; never rejects. */
export async function runProgram(words: readonly string[]): Promise<number> {
  let code = 0;
  const finish = (result: number): void => {
    code = result;
  };
  const program = new Command('nbd-serve')
    .description('Serves disk images over NBD (Network Block Device).')
    .version(version)
    .addCommand(fileCommand(finish))
    .addCommand(memoryCommand(finish))
    .addCommand(directoryCommand(finish))
    .addCommand(pluginCommand(finish))
    .addCommand(cachestatCommand(finish))
    .addCommand(tuneCommand(finish))
    .addCommand(tlsInitCommand())
    .addCommand(completionCommand())
    .addCommand(manPageCommand(), { hidden: true });
  for (const command of [program, ...program.commands]) {
    command.exitOverride();
  }
  try {
    await program.parseAsync(words, { from: 'user' });
    return code;
  } catch (error) {
    if (error instanceof CommanderError) {
      // Commander has printed its line, or the help or version that was asked for, already.
      return error.exitCode;
    }
    process.stderr.write(`nbd-serve: ${describeError(error)}\n`);
    return 1;
  }
}
