/** The manual page, read by the programs that will read it. */
import { writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { attempt, run } from '../support/command.ts';
import { PROGRAM } from '../support/server.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

test('names every command and option, and neither mandoc nor groff has anything to say against it', async () => {
  await using directory = await temporaryDirectory();
  const page = directory.file('nbd-serve.1');
  await writeFile(page, await run([...PROGRAM, 'man-page'], { environment: { SOURCE_DATE_EPOCH: '86400' } }));
  expect(await run(['mandoc', '-Tlint', '-Wwarning', page])).toBe('');
  const groff = await attempt(['groff', '-man', '-ww', '-Tutf8', '-P-c', page]);
  expect(groff.stderr).toBe('');
  const text = await run(['mandoc', '-Tascii', '-Owidth=200', page]);
  // Bold and underlined letters are overstruck.
  const plain = text.replaceAll(/.[\b]/g, '');
  expect(plain).toMatch(/^NBD-SERVE\(1\)/);
  expect(plain).toContain('1970-01-02');
  const help = await run([...PROGRAM, '--help']);
  const commands = [...help.matchAll(/^ {2}([a-z][a-z-]*) /gm)].map(([, name]) => name ?? '');
  expect(commands).toContain('directory');
  for (const command of commands) {
    expect(plain).toContain(`nbd-serve ${command} [options]`);
  }
  const options = await run([...PROGRAM, 'file', '--help']);
  for (const [, option] of options.matchAll(/^ {2}(?:-\w, )?(--[a-z-]+)/gm)) {
    expect(plain).toContain(option);
  }
});

test('npm run man makes the page that is packaged', async () => {
  await run(['npm', 'run', '--silent', 'man']);
  const files = JSON.parse(await run(['npm', 'pack', '--dry-run', '--json', '--ignore-scripts'])) as [
    { readonly files: readonly { readonly path: string }[] },
  ];
  const paths = files[0].files.map(({ path }) => path);
  expect(paths).toContain('man/nbd-serve.1');
  expect(paths).toContain('examples/systemd/nbd-serve@.service');
});

test('systemd has nothing to say against the sample units but that the program is not installed', async () => {
  await using directory = await temporaryDirectory();
  for (const kind of ['service', 'socket']) {
    await run(['cp', `examples/systemd/nbd-serve@.${kind}`, directory.file(`nbd-serve@x.${kind}`)]);
  }
  const { stderr } = await attempt([
    'systemd-analyze',
    'verify',
    '--man=no',
    directory.file('nbd-serve@x.service'),
    directory.file('nbd-serve@x.socket'),
  ]);
  expect(stderr.replace(/^.*\/usr\/bin\/nbd-serve is not executable.*\n/gm, '')).toBe('');
});
