/** Every filter through real servers and clients. */
import { readFile, rm, writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { run } from '../support/command.ts';
import { createFullImage, createImage, expectSameContent } from '../support/image.ts';
import { python } from '../support/python.ts';
import { COMMAND, encodeRequest, RawClient } from '../support/raw-client.ts';
import { startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const SIZE = 6 * MiB + 1536;

describe.each([
  [['delay:read=1ms,write=1ms,extents=1ms']],
  [['error:rate=100%,commands=write,file=/nonexistent/switch']],
  [['rate:1G,connection-rate=500M,burst=100K']],
  [['readahead:window=64K,memory=128K', 'delay:read=1ms']],
  [['log:file=LOG', 'readahead', 'cow', 'rate:1G', 'offset:0']],
])('%j', (filters) => {
  test('clients copy an image in and out, and compare it', async () => {
    await using directory = await temporaryDirectory();
    const [image, disk, copy] = ['image.img', 'disk.img', 'copy.img'].map((name) => directory.file(name)) as [
      string,
      string,
      string,
    ];
    await createImage(image, SIZE, [
      { offset: 1000, length: 2 * MiB },
      { offset: 5 * MiB, length: MiB + 1536 },
    ]);
    await createFullImage(disk, SIZE);
    const options = filters.flatMap((filter) => ['--filter', filter.replace('LOG', directory.file('log'))]);
    await using server = await startServer(['file', disk, '--log-level', 'warn', ...options]);
    await run(['nbdcopy', '--flush', image, server.uri]);
    await run(['qemu-img', 'compare', '-f', 'raw', '-F', 'raw', image, server.uri]);
    await run(['nbdcopy', '--connections=1', '--requests=1', '--request-size=4096', server.uri, copy]);
    await expectSameContent(image, copy);
  });
});

test('an offset that is odd is served byte for byte, and the rest of the image left alone', async () => {
  await using directory = await temporaryDirectory();
  const [image, copy] = [directory.file('disk.img'), directory.file('copy.img')];
  await createFullImage(image, 2 * MiB);
  const before = await readFile(image);
  await using server = await startServer(['file', image, '--filter', 'offset:offset=12345,range=700001']);
  await run(['nbdcopy', server.uri, copy]);
  expect((await readFile(copy)).equals(before.subarray(12_345, 712_346))).toBe(true);
  await python(
    server.uri,
    `
h = connect()
h.pwrite(b'x' * 1000, 0)
h.zero(1000, 699001)
h.flush()
fails(errno.EINVAL, connect(strict=0).pread, 2, 700000)
`,
  );
  before.fill('x', 12_345, 13_345).fill(0, 711_346, 712_346);
  expect((await readFile(image)).equals(before)).toBe(true);
});

test('errors come as they were ordered, as long as the file is there', async () => {
  await using directory = await temporaryDirectory();
  const [image, file] = [directory.file('disk.img'), directory.file('switch')];
  await createImage(image, MiB);
  const filter = `error:rate=100%,errno=ENOSPC,commands=write,zero,file=${file}`;
  await using server = await startServer(['file', image, '--filter', filter]);
  await python(server.uri, 'connect().pwrite(bytearray(512), 0)');
  await writeFile(file, '');
  await python(
    server.uri,
    `
h = connect()
fails(errno.ENOSPC, h.pwrite, bytearray(512), 0)
fails(errno.ENOSPC, h.zero, 512, 0)
h.pread(512, 0); h.flush(); h.trim(512, 0)
`,
  );
  await rm(file);
  await python(server.uri, 'connect().pwrite(bytearray(512), 0)');
});

test('every request of a client is a line in the log', async () => {
  await using directory = await temporaryDirectory();
  const [image, log] = [directory.file('disk.img'), directory.file('requests.log')];
  await createImage(image, MiB);
  {
    await using server = await startServer(['file', image, '--filter', `log:file=${log}`]);
    await python(
      server.uri,
      `
h = connect()
h.pwrite(bytearray(512), 1024, nbd.CMD_FLAG_FUA)
for _ in range(100): h.pread(4096, 0)
h.flush()
`,
    );
  }
  const lines = (await readFile(log, 'utf8'))
    .trimEnd()
    .split('\n')
    .map((line) => JSON.parse(line) as Record<string, unknown>);
  expect(lines[0]).toMatchObject({ command: 'write', offset: 1024, length: 512, isFua: true, result: 'ok' });
  expect(lines.filter(({ command }) => command === 'read')).toHaveLength(100);
  expect(lines.at(-1)).toMatchObject({ command: 'flush', result: 'ok' });
});

test.each(['delay:read=60m', 'rate:1'])(
  'requests that %s holds back are answered when the server is told to end',
  async (filter) => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB);
    await using server = await startServer(['file', image, '--filter', filter]);
    await using client = await RawClient.connect(server);
    await client.handshake();
    await client.send(encodeRequest({ type: COMMAND.read, length: 65_536, cookie: 7n }));
    await run(['nbdinfo', '--size', server.uri]);
    const stopped = server.stop();
    expect(await client.receiveReply(65_536)).toEqual({ error: 0, cookie: 7n });
    await stopped;
  },
);
