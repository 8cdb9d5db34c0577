import { readFile, stat } from 'node:fs/promises';
import { createServer } from 'node:net';
import { dirname } from 'node:path';
import { expect, test } from 'vitest';
import { attempt, run } from '../support/command.ts';
import { createImage } from '../support/image.ts';
import { PROGRAM, startServer, startServerAsGiven } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => {
    server.listen(0, '127.0.0.1', resolve);
  });
  const address = server.address();
  await new Promise((resolve) => server.close(resolve));
  if (address === null || typeof address === 'string') throw new Error('no port');
  return address.port;
}

test('standard output is one line, the URI of the Unix socket', async () => {
  await using directory = await temporaryDirectory();
  const [image, path] = [directory.file('disk.img'), directory.file('nbd.sock')];
  await createImage(image, MiB);
  await using server = await startServer(['file', image, '-U', path]);
  expect(server.uri).toBe(`nbd+unix:///?socket=${path}`);
  expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
  // stop() compares the whole of standard output with the URI.
  await server.stop();
});

test('without a listener option the server listens on the port of NBD, on loopback', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  await using server = await startServerAsGiven(['file', image]);
  expect(server.uri).toMatch(/^nbd:\/\/127\.0\.0\.1(:10809)?\/?$/);
  expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
});

test('port 0 picks a free port, which the URI tells', async () => {
  await using directory = await temporaryDirectory();
  const [one, other] = [directory.file('one.img'), directory.file('other.img')];
  await createImage(one, MiB);
  await createImage(other, 2 * MiB);
  await using first = await startServer(['file', one, '-p', '0']);
  await using second = await startServer(['file', other, '-p', '0']);
  expect(first.uri).not.toBe(second.uri);
  expect(await run(['nbdinfo', '--size', first.uri])).toBe(`${MiB}\n`);
  expect(await run(['nbdinfo', '--size', second.uri])).toBe(`${2 * MiB}\n`);
});

test('--bind listens on the IPv6 loopback address', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  await using server = await startServer(['file', image, '-p', '0', '-b', '::1']);
  expect(server.uri).toMatch(/^nbd:\/\/\[::1\]:\d+\/?$/);
  expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
});

test('with -U and -p the server listens on both and prints the Unix socket', async () => {
  await using directory = await temporaryDirectory();
  const [image, path] = [directory.file('disk.img'), directory.file('nbd.sock')];
  await createImage(image, MiB);
  const port = await freePort();
  await using server = await startServer(['file', image, '-U', path, '-p', String(port), '-e', 'x']);
  expect(server.uri).toBe(`nbd+unix:///x?socket=${path}`);
  expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
  expect(await run(['nbdinfo', '--size', `nbd://127.0.0.1:${port}/x`])).toBe(`${MiB}\n`);
});

test('"-U -" makes a private socket, which is gone with its directory afterwards', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  await using server = await startServer(['file', image, '-U', '-']);
  const path = server.socketPath;
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  expect((await stat(dirname(path))).mode & 0o777).toBe(0o700);
  expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
  await server.stop();
  await expect(stat(dirname(path))).rejects.toThrow('ENOENT');
});

test('a Unix socket is for its owner only, and is removed at the end', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  await using server = await startServer(['file', image]);
  const path = server.socketPath;
  expect((await stat(path)).mode & 0o777).toBe(0o600);
  await server.stop();
  await expect(stat(path)).rejects.toThrow('ENOENT');
});

test.each(['plain', 'a b', 'répertoire/été', '100%', 'what?#&=', '日本', '+', "it's", '%2F', '..'])(
  'the export name "%s" survives the URI',
  async (name) => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using server = await startServer(['file', image, '--export-name', name]);
    expect(server.uri).toMatch(/^[!-~]+$/);
    expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
    const list = JSON.parse(await run(['nbdinfo', '--list', '--json', server.uri])) as {
      readonly exports: readonly { readonly 'export-name': string }[];
    };
    expect(list.exports.map((each) => each['export-name'])).toEqual([name]);
    await run(['qemu-img', 'info', '-f', 'raw', server.uri]);
  },
);

test('a socket path with unusual characters survives the URI', async () => {
  await using directory = await temporaryDirectory();
  const [image, path] = [directory.file('disk.img'), directory.file('a b&c=d%41é.sock')];
  await createImage(image, MiB);
  await using server = await startServer(['file', image, '-U', path]);
  expect(server.socketPath).toBe(path);
  expect(await run(['nbdinfo', '--size', server.uri])).toBe(`${MiB}\n`);
});

test('--help prints the options on standard output', async () => {
  const main = await run([...PROGRAM, '--help']);
  for (const word of ['file', 'cachestat', 'tls-init']) expect(main).toContain(word);
  const file = await run([...PROGRAM, 'file', '--help']);
  for (const option of [
    '--unix',
    '--port',
    '--bind',
    '--tls',
    '--tls-certificates',
    '--tls-psk',
    '--tls-verify-peer',
    '--export-name',
    '--description',
    '--read-only',
    '--cache',
    '--windows',
    '--window-size',
    '--no-lock',
    '--create',
  ]) {
    expect(file).toContain(option);
  }
});

test('--version prints the version of the package', async () => {
  const { version } = JSON.parse(await readFile('package.json', 'utf8')) as { readonly version: string };
  expect(await run([...PROGRAM, '--version'])).toBe(`${version}\n`);
});

test('without a subcommand there is help on standard error and a non-zero exit code', async () => {
  const { code, stdout, stderr } = await attempt([...PROGRAM]);
  expect(code).not.toBe(0);
  expect(stdout).toBe('');
  expect(stderr).toMatch(/usage/i);
});

test('the log on standard error is JSON, one object a line', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  await using server = await startServer(['file', image, '--log-level', 'trace']);
  await run(['nbdcopy', server.uri, 'null:']);
  await server.stop();
  expect(server.stderr.endsWith('\n')).toBe(true);
  expect(server.log.length).toBeGreaterThan(0);
  for (const line of server.log) expect(typeof line.level).toBe('number');
});

test('--log-level silent says nothing at all', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  await using server = await startServer(['file', image, '--log-level', 'silent']);
  await run(['nbdcopy', server.uri, 'null:']);
  await server.stop();
  expect(server.stderr).toBe('');
});
