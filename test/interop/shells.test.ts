/** The completion scripts in the shells that they are for, at a terminal and with the TAB key. */
import { mkdir, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { run } from '../support/command.ts';
import { PYTHON } from '../support/python.ts';
import { PROGRAM } from '../support/server.ts';
import { type TemporaryDirectory, temporaryDirectory } from '../support/temporary-directory.ts';

/** Types at an interactive shell until the line "words: ..." appears, and prints it. */
const TERMINAL = `
import os, pty, re, select, sys
setup, typed, *shell = sys.argv[1:]
pid, terminal = pty.fork()
if pid == 0:
    os.execvp(shell[0], shell)
seen = b''
def read_until(pattern):
    global seen
    while not re.search(pattern, seen):
        ready, _, _ = select.select([terminal], [], [], 30)
        if not ready:
            sys.exit(f'gave up waiting for {pattern}: {seen}')
        seen += os.read(terminal, 65536)
    found = re.search(pattern, seen)
    seen = seen[found.end():]
    return found
os.write(terminal, setup.encode() + b'\\n')
read_until(rb'\\n *ready\\.')
os.write(terminal, typed.encode() + b'\\n')
print(read_until(rb'words:<([^\\n]*)>').group(1).decode(), end='')
os.write(terminal, b'\\nexit\\n')
os.waitpid(pid, 0)
`;

const SHELLS = {
  bash: {
    command: ['bash', '--norc', '--noprofile', '-i'],
    setup:
      'nbd-serve() { printf "words:<%s>\\n" "$*"; }; . ./script; bind "set bell-style none"; echo rea""dy.',
  },
  zsh: {
    command: ['zsh', '-f', '-i'],
    setup: `nbd-serve() { print -r "words:<$*>" }; autoload -U compinit; compinit -D -u; . ./script; unsetopt beep; echo rea""dy.`,
  },
} as const;

async function script(shell: string): Promise<TemporaryDirectory> {
  const directory = await temporaryDirectory();
  await writeFile(directory.file('script'), await run([...PROGRAM, 'completion', shell]));
  await mkdir(directory.file('only folder'));
  await writeFile(directory.file('some disk.img'), '');
  return directory;
}

test.each(['bash', 'zsh'] as const)(
  '%s completes commands, folders, files, options and values',
  async (shell) => {
    await using directory = await script(shell);
    const { command, setup } = SHELLS[shell];
    const typed = 'nbd-serve dir\tonly\t --tls-p\tsome\t--log-f\tpr\t--cache=n\t';
    const found = await run([PYTHON, '-c', TERMINAL, `cd "$FOLDER"; ${setup}`, typed, ...command], {
      environment: { FOLDER: directory.path, PS1: '$ ', TERM: 'dumb' },
    });
    // Each shell has its own way with the slash behind a folder, and the space or = between option and value.
    expect(found.replaceAll(/\/? +|=/g, ' ').trim()).toBe(
      'directory only folder --tls-psk some disk.img --log-format pretty --cache none',
    );
  },
);

test('fish offers commands, files, options and values', async () => {
  await using directory = await script('fish');
  const expected = {
    'nbd-serve ': expect.arrayContaining(['completion', 'directory', 'file', 'help', 'tls-init']),
    'nbd-serve file x --cache ': ['default', 'none'],
    'nbd-serve completion ': ['bash', 'fish', 'zsh'],
    'nbd-serve file some': ['some disk.img'],
    'nbd-serve tune x --p': ['--pattern', '--plot'],
  };
  const command = 'cd $FOLDER; source script; for typed in $argv; complete -C $typed; echo; end';
  const output = await run(['fish', '--no-config', '-c', command, ...Object.keys(expected)], {
    environment: { FOLDER: directory.path },
  });
  const offers = output
    .trimEnd()
    .split('\n\n')
    .map((offer) =>
      offer
        .split('\n')
        .map((line) => (line.split('\t')[0] ?? '').replaceAll('\\ ', ' '))
        .toSorted(),
    );
  expect(offers).toEqual(Object.values(expected));
});
