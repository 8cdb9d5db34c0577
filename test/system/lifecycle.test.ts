/** How a server is seen to start and to end: the pid file, the last client, the log, and process id 1. */
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { mkdir, readFile, stat, writeFile } from 'node:fs/promises';
import { connect } from 'node:net';
import { describe, expect, test } from 'vitest';
import { attempt, childEnvironment, privileged, run } from '../support/command.ts';
import { createFullImage, createImage } from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { COMMAND, encodeRequest, RawClient } from '../support/raw-client.ts';
import { expectRefusal, LOGGED, PROGRAM, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { straceTo } from '../support/strace.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

describe('--pid-file', () => {
  test('is there in one piece once clients can connect, and gone at the end', async () => {
    await using directory = await temporaryDirectory();
    const [image, pidFile] = [directory.file('disk.img'), directory.file('pid')];
    await createImage(image, MiB);
    await writeFile(pidFile, '1\n');
    await using server = await startServer(['file', image, '--pid-file', pidFile]);
    expect(await readFile(pidFile, 'utf8')).toBe(`${server.pid}\n`);
    await server.stop();
    expect(existsSync(pidFile)).toBe(false);
    expect((await run(['ls', directory.path])).trim()).toBe('disk.img');
  });

  test('of another server is left alone', async () => {
    await using directory = await temporaryDirectory();
    const [image, pidFile] = [directory.file('disk.img'), directory.file('pid')];
    await createImage(image, MiB);
    await using first = await startServer(['file', image, '--read-only', '--pid-file', pidFile]);
    await using second = await startServer(['file', image, '--read-only', '--pid-file', pidFile]);
    await first.stop();
    expect(await readFile(pidFile, 'utf8')).toBe(`${second.pid}\n`);
  });

  test('is refused before anything is opened where it cannot be', async () => {
    await using directory = await temporaryDirectory();
    const [image, fifo] = [directory.file('disk.img'), directory.file('fifo')];
    await run(['mkfifo', fifo]);
    for (const path of [directory.file('none/pid'), directory.path, fifo]) {
      const message = await expectRefusal(['file', image, '--create', '1M', '-p', '0', '--pid-file', path]);
      expect(message).toContain(`Cannot write the pid file "${path}"`);
    }
    expect(existsSync(image)).toBe(false);
  });

  test('leaves nothing behind when the server cannot start', async () => {
    await using directory = await temporaryDirectory();
    await expectRefusal(['file', '/nonexistent', '-p', '0', '--pid-file', directory.file('pid')]);
    expect(await run(['ls', directory.path])).toBe('');
  });
});

describe('--exit-last', () => {
  test('ends the server with its last client, not with who only knocks, nor with the first', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using server = await startServer(['file', image, '--exit-last']);
    for (let count = 0; count < 3; count += 1) {
      await new Promise<void>((resolve, reject) => {
        const socket = connect(server.socketPath, () => socket.destroy());
        socket.once('close', () => resolve());
        socket.once('error', reject);
      });
    }
    const first = await RawClient.connect(server);
    await first.handshake();
    await using second = await RawClient.connect(server);
    await second.handshake();
    await first[Symbol.asyncDispose]();
    await eventually('the first is gone', () =>
      server.log.filter(({ msg }) => msg === 'Connection closed').length === 4 ? true : undefined,
    );
    await second.send(encodeRequest({ type: COMMAND.write, cookie: 1n, data: Buffer.alloc(512, 7) }));
    expect(await second.receiveReply()).toEqual({ error: 0, cookie: 1n });
    await second.leave();
    expect(await server.ended(), server.stderr).toEqual({ code: 0, signal: null });
    expect(server.log).toContainEqual(expect.objectContaining({ reason: 'the last client has left' }));
    expect((await readFile(image)).subarray(0, 512)).toEqual(Buffer.alloc(512, 7));
  });

  test('serves one conversion with several connections', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createFullImage(image, 8 * MiB);
    await using server = await startServer(['file', image, '--exit-last']);
    await run(['nbdcopy', '--connections=4', server.uri, directory.file('copy')]);
    expect((await server.ended()).code).toBe(0);
    await run(['cmp', image, directory.file('copy')]);
  });
});

describe('the log', () => {
  test('begins with what is served where', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using server = await startServer([
      'file',
      image,
      '-e',
      'x',
      '--cache',
      'none',
      '-p',
      '0',
      '-U',
      '-',
    ]);
    await expect
      .poll(() => server.log[0], LOGGED)
      .toMatchObject({
        level: 30,
        msg: 'Serving',
        uri: server.uri,
        alsoAt: [expect.stringMatching(/^nbd:\/\/127\.0\.0\.1:\d+\/x$/)],
        export: 'x',
        size: MiB,
        file: image,
        cache: 'none',
      });
  });

  test('is text for people with --log-format pretty, to the last line', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    const words: [string, ...string[]] = [...PROGRAM, 'file', image, '--log-format', 'pretty', '--run'];
    const { code, stderr } = await attempt([...words, 'nbdinfo --size "$uri" >&2']);
    expect(code).toBe(0);
    const lines = stderr.trimEnd().split('\n');
    expect(lines[0]).toMatch(
      /^\[\d{4}-\d\d-\d\d \d\d:\d\d:\d\d\.\d{3}\] INFO: Serving \{.*"size":1048576.*\}$/,
    );
    expect(lines).toContain(String(MiB));
    // The connection's own last line may come after it.
    expect(lines.slice(-2).join()).toMatch(/INFO: Shutting down \{"reason":"the command has ended"\}/);
  });
});

describe('as process 1 of a container', () => {
  /** The process id, out here, of the first process in there. */
  async function firstProcess(unshare: number): Promise<number> {
    const children = await readFile(`/proc/${unshare}/task/${unshare}/children`, 'utf8');
    expect(children.trim()).toMatch(/^\d+$/);
    return Number(children);
  }
  const container: [string, ...string[]] = privileged('unshare', '--pid', '--fork', '--kill-child', '--') as [
    string,
    ...string[],
  ];

  test('one signal ends it in order', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using server = await startServer(['file', image], { through: container });
    process.kill(await firstProcess(server.pid), 'SIGTERM');
    expect(await server.ended()).toEqual({ code: 0, signal: null });
  });

  test('a second signal ends it at once with 128 and its number', async () => {
    await using directory = await temporaryDirectory();
    const [image, pidFile] = [directory.file('disk.img'), directory.file('pid')];
    await createFullImage(image, 32 * MiB);
    await using server = await startServer(['file', image, '--pid-file', pidFile], { through: container });
    expect(await readFile(pidFile, 'utf8')).toBe('1\n');
    await using client = await RawClient.connect(server);
    await client.handshake();
    // A reply that is never read keeps the first signal waiting.
    await client.send(encodeRequest({ type: COMMAND.read, length: 32 * MiB }));
    await client.receive(16);
    const pid = await firstProcess(server.pid);
    process.kill(pid, 'SIGTERM');
    await eventually('it begins to end', () =>
      server.log.some(({ msg }) => msg === 'Shutting down') ? true : undefined,
    );
    process.kill(pid, 'SIGINT');
    expect(await server.ended()).toEqual({ code: 130, signal: null });
    expect(existsSync(pidFile)).toBe(false);
    expect(existsSync(server.socketPath)).toBe(false);
  });
});

test('of many servers that find one stale socket, one listens and is left alone', async () => {
  await using directory = await temporaryDirectory();
  await mkdir(directory.file('sockets'));
  const [image, path] = [directory.file('disk.img'), directory.file('sockets/s')];
  await createImage(image, MiB);
  await run(['python3', '-c', 'import socket,sys; socket.socket(socket.AF_UNIX).bind(sys.argv[1])', path]);
  expect((await stat(path)).isSocket()).toBe(true);
  // Time between the look at the socket and its removal, in which all of them have looked.
  const slowly = straceTo(
    '/dev/null',
    '-P',
    path,
    '-e',
    'trace=unlink',
    '-e',
    'inject=unlink:delay_enter=500000',
  );
  const script = `
for i in 1 2 3 4; do
  "$@" >"$OUT.$i" 2>"$OUT.err.$i" &
  echo $!
done
wait`;
  const words = [...slowly, ...PROGRAM, 'file', image, '-r', '-U', path, '--log-level', 'silent'];
  const child = spawn('sh', ['-c', script, 'sh', ...words], {
    env: childEnvironment({ OUT: directory.file('out') }),
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const ended = new Promise((resolve) => child.once('close', resolve));
  let pids = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => {
    pids += text;
  });
  const indexes = [1, 2, 3, 4];
  const read = (name: string): Promise<string> => readFile(directory.file(name), 'utf8').catch(() => '');
  const texts = await eventually('each has come up or given up', async () => {
    const found = await Promise.all(
      indexes.map(async (i) => (await read(`out.${i}`)) + (await read(`out.err.${i}`))),
    );
    return found.every((text) => text.endsWith('\n')) ? found : undefined;
  });
  expect(texts.toSorted()).toEqual([
    `nbd+unix:///?socket=${path}\n`,
    ...Array.from(
      { length: 3 },
      () => `nbd-serve: Cannot listen on "${path}": another server listens there\n`,
    ),
  ]);
  expect(await run(['nbdinfo', '--size', `nbd+unix:///?socket=${path}`])).toBe(`${MiB}\n`);
  for (const [index, pid] of pids.trim().split('\n').entries()) {
    if (texts[index]?.startsWith('nbd+unix') === true) process.kill(Number(pid), 'SIGTERM');
  }
  await ended;
  expect(existsSync(path)).toBe(false);
});
