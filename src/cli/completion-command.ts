/** `nbd-serve completion <shell>`. */
import { Argument, Command } from '@commander-js/extra-typings';
import { bashCompletion } from './completion/bash.ts';
import { fishCompletion } from './completion/fish.ts';
import { zshCompletion } from './completion/zsh.ts';
import { type Outline, outline } from './outline.ts';
import { print } from './print.ts';

const SCRIPTS: Readonly<Record<'bash' | 'zsh' | 'fish', (program: Outline) => string>> = {
  bash: bashCompletion,
  zsh: zshCompletion,
  fish: fishCompletion,
};

export function completionCommand() {
  return new Command('completion')
    .description('print a script that completes these commands and options in a shell')
    .addArgument(new Argument('<shell>', 'whose script').choices(['bash', 'zsh', 'fish'] as const))
    .action((shell, _options, command) => {
      if (command.parent !== null) {
        print(SCRIPTS[shell](outline(command.parent)));
      }
    });
}
