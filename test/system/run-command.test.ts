/** `--run`: a command with the server to itself, whose end and status are the server's. */
import { existsSync } from 'node:fs';
import { expect, test } from 'vitest';
import { attempt, run } from '../support/command.ts';
import { createImage, expectBytes } from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { PROGRAM } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { faults } from '../support/strace.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const WRITE = `/usr/bin/python3 -c 'import nbd,os; h=nbd.NBD(); h.connect_uri(os.environ["uri"]); h.pwrite(b"x"*512, 0)'`;

test('sets the variables of nbdkit, and leaves standard output and input to the command', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  const command = 'cat; nbdinfo --size "$uri"; echo "$uri|$nbd|$unixsocket|$port|$exportname"';
  const words: [string, ...string[]] = [
    ...PROGRAM,
    'file',
    image,
    '--log-level',
    'warn',
    '-e',
    'a b',
    '--run',
  ];
  const { code, stdout, stderr } = await attempt([...words, command], { input: 'hello\n' });
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  const [hello, size, variables] = stdout.split('\n');
  expect([hello, size]).toEqual(['hello', String(MiB)]);
  const [uri, nbd, path, port, name] = variables?.split('|') ?? [];
  expect([uri, nbd, port, name]).toEqual([`nbd+unix:///a%20b?socket=${path}`, uri, '', 'a b']);
  expect(existsSync(path ?? '')).toBe(false);
});

test('names the port when it is told to listen on one', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  const words: [string, ...string[]] = [...PROGRAM, 'file', image, '--log-level', 'warn', '-p', '0', '--run'];
  const [uri, port, path] = (await run([...words, 'echo "$uri $port $unixsocket"'])).trimEnd().split(' ');
  expect([uri, path]).toEqual([`nbd://127.0.0.1:${port}/`, undefined]);
});

test('a conversion by qemu-img is in the image when it has ended', async () => {
  await using directory = await temporaryDirectory();
  const [source, image] = [directory.file('source.img'), directory.file('disk.img')];
  await createImage(source, 4 * MiB, [{ offset: MiB, length: MiB }]);
  const command = 'qemu-img convert -n -f raw -O raw "$SOURCE" "$uri"';
  await run([...PROGRAM, 'file', image, '--create', '4M', '--cache', 'none', '--run', command], {
    environment: { SOURCE: source },
  });
  expect(await run(['cmp', source, image])).toBe('');
});

test.each([
  ['exit 3', 3],
  ['kill -9 $$', 137],
  ['kill -15 $$', 143],
  ['/nonexistent/command', 127],
  ['true', 0],
])('after "%s" the status is %i', async (command, status) => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  expect((await attempt([...PROGRAM, 'file', image, '--run', command])).code).toBe(status);
});

test('a command that succeeds is no success when its data is lost in the last flush', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  const through = faults(directory.file('log'), image, 'fdatasync:error=EIO');
  const { code, stderr } = await attempt([...through, ...PROGRAM, 'file', image, '--run', WRITE]);
  expect(code, stderr).toBe(1);
  expect(stderr).toContain('Acknowledged data was lost');
});

test.each(['SIGTERM', 'SIGINT'] as const)('%s ends the command, too, and flushes', async (signal) => {
  await using directory = await temporaryDirectory();
  const [image, ready] = [directory.file('disk.img'), directory.file('ready')];
  await createImage(image, MiB);
  const command = `${WRITE}; trap 'echo told; exit 9' TERM INT; touch "$READY"; while :; do sleep 0.05; done`;
  const { code, stdout, stderr } = await attempt([...PROGRAM, 'file', image, '--run', command], {
    environment: { READY: ready },
    started: (child) => {
      void eventually('the command runs', () => (existsSync(ready) ? true : undefined)).then(() =>
        child.kill(signal),
      );
    },
  });
  expect({ code, stdout }, stderr).toEqual({ code: 9, stdout: 'told\n' });
  expect(stderr).toContain(`"reason":"${signal}"`);
  await expectBytes(image, 0, Buffer.alloc(512, 'x'));
});
