/** `nbd-serve memory` as its users run it, with foreign clients. */
import { readFile, truncate, writeFile } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { run } from '../support/command.ts';
import { python } from '../support/python.ts';
import { COMMAND, encodeRequest, RawClient } from '../support/raw-client.ts';
import { expectRefusal, type NbdServer, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const LARGEST = '9007199254740991';
const PAGE = 64 * 1024;

async function residentBytes(server: NbdServer): Promise<number> {
  const status = await readFile(`/proc/${server.pid}/status`, 'utf8');
  return Number(/^VmRSS:\s+(\d+) kB$/m.exec(status)?.[1]) * 1024;
}

describe('a disk of 2^53-1 bytes', () => {
  test('nbdinfo, qemu-img and qemu-io', async () => {
    await using server = await startServer(['memory', LARGEST]);
    const info = JSON.parse(await run(['nbdinfo', '--json', server.uri])) as { exports: unknown[] };
    expect(info.exports[0]).toMatchObject({
      'export-size': 2 ** 53 - 1,
      can_cache: true,
      can_fast_zero: true,
      can_flush: true,
      can_fua: true,
      can_multi_conn: true,
      can_trim: true,
      can_zero: true,
      is_read_only: false,
    });
    const image = JSON.parse(await run(['qemu-img', 'info', '--output=json', server.uri])) as object;
    // QEMU counts sectors of 512 bytes.
    expect(image).toMatchObject({ format: 'raw', 'virtual-size': 2 ** 53 });
    const far = 2 ** 52;
    await run(['qemu-io', '-f', 'raw', '-c', `write -P 0x5a ${far} 128k`, '-c', 'flush', server.uri]);
    await run([
      'qemu-io',
      '-f',
      'raw',
      ...['-c', `read -P 0x5a ${far} 128k`, '-c', `read -P 0 ${far + 131_072} 1M`, '-c', 'read -P 0 0 1M'],
      server.uri,
    ]);
    const region = [`--start-offset=${far - 65_536}`, '--max-length=1M'];
    const map = JSON.parse(
      await run(['qemu-img', 'map', '--output=json', ...region, server.uri]),
    ) as object[];
    expect(map).toMatchObject([
      { start: far - PAGE, length: PAGE, data: false, zero: true },
      { start: far, length: 2 * PAGE, data: true, zero: false },
      { start: far + 2 * PAGE, length: MiB - 3 * PAGE, data: false, zero: true },
    ]);
    await server.stop();
  });

  test('nbdcopy --allocated puts a small image in, all of it allocated', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('small.img');
    await writeFile(image, Buffer.alloc(300_000, 7));
    await truncate(image, MiB);
    await using server = await startServer(['memory', LARGEST]);
    await run(['nbdcopy', '--allocated', image, server.uri]);
    const script = `
h = connect(setup=lambda h: h.add_meta_context('base:allocation'))
assert h.pread(300000, 0) == b'\\x07' * 300000
assert h.pread(1048576 - 300000, 300000) == bytes(1048576 - 300000)
print(json.dumps(extents(h, 0, 2 << 20)))
`;
    expect(JSON.parse(await python(server.uri, script))).toEqual([
      [0, MiB, 0],
      [MiB, MiB, 3],
    ]);
    await server.stop();
  });
});

test('odd offsets and lengths, FUA, both ends, TRIM and WRITE_ZEROES through libnbd', async () => {
  await using server = await startServer(['memory', '5G']);
  await python(
    server.uri,
    `
h = connect(setup=lambda h: h.add_meta_context('base:allocation'))
size = h.get_size()
assert size == 5 << 30
block = bytearray(os.urandom(3 << 20))
for offset in (0, 1, 65535, (1 << 30) - 12345, size - len(block)):
    h.pwrite(block, offset, nbd.CMD_FLAG_FUA)
    assert h.pread(len(block), offset) == block, offset
assert h.pread(1000, size - 1000) == block[-1000:]
want = bytearray(h.pread(1 << 20, 0))
h.zero(100, 7)
h.trim(200000, 300)
h.zero(100000, 1000000, nbd.CMD_FLAG_NO_HOLE | nbd.CMD_FLAG_FAST_ZERO)
want[7:107] = bytes(100)
want[300:200300] = bytes(200000)
want[1000000:] = bytes(len(want) - 1000000)
assert h.pread(len(want), 0) == want
h.flush()
h.cache(1 << 20, 0)
h.shutdown()
second = connect()
assert second.pread(1000, size - 1000) == block[-1000:]
second.shutdown()
`,
  );
  await server.stop();
});

test('1 GiB that is written and trimmed leaves no more than 64 MiB behind', async () => {
  await using server = await startServer(['memory', '8G']);
  const before = await residentBytes(server);
  const write = `
h = connect()
block = bytearray(os.urandom(1 << 22))
for index in range(256):
    h.pwrite(block, (index << 22) + 777)
assert h.pread(len(block), (255 << 22) + 777) == block
h.shutdown()
`;
  await python(server.uri, write);
  expect((await residentBytes(server)) - before).toBeGreaterThan(1024 * MiB);
  await python(server.uri, 'h = connect(); h.trim((1 << 30) + 777, 0); h.shutdown()');
  expect((await residentBytes(server)) - before).toBeLessThan(64 * MiB);
  await server.stop();
});

test('beyond --memory-limit writes get ENOSPC, and a TRIM makes room', async () => {
  await using server = await startServer(['memory', '1T', '--memory-limit', '8M', '--log-level', 'fatal']);
  await python(
    server.uri,
    `
h = connect()
block = bytearray(os.urandom(1 << 20))
# One 64 KiB table: 127 pages are left.
for index in range(7):
    h.pwrite(block, index << 20)
fails(errno.ENOSPC, h.pwrite, block, 7 << 20)
fails(errno.ENOSPC, h.pwrite, block, 500 << 30)
fails(errno.ENOSPC, h.zero, 1 << 20, 500 << 30, nbd.CMD_FLAG_NO_HOLE)
h.zero(1 << 30, 500 << 30)
h.pwrite(block, 3 << 20)
assert h.pread(1 << 20, 6 << 20) == block
h.trim(4 << 20, 0)
h.pwrite(block, 500 << 30)
assert h.pread(1 << 20, 500 << 30) == block
assert h.pread(1 << 20, 6 << 20) == block
h.shutdown()
`,
  );
  await server.stop();
});

test('--read-only and --export-name', async () => {
  await using server = await startServer(['memory', '3', '--read-only', '--export-name', 'ram']);
  await python(
    server.uri,
    'h = connect(); assert h.is_read_only(); assert h.pread(3, 0) == bytes(3); h.shutdown()',
  );
  await server.stop();
});

test.each([
  ['no size', ['memory'], /size/],
  ['a size that is none', ['memory', 'much'], /512M/],
  ['a size above 2^53-1', ['memory', '9007199254740992'], /9007199254740991/],
  ['8 PiB', ['memory', '8P'], /9007199254740991/],
  ['a limit below a page and its table', ['memory', '1G', '--memory-limit', '5'], /1048576/],
  ['a limit beyond what can be mapped', ['memory', '1G', '--memory-limit', '5T'], /4398046511104/],
  ['an option of other commands', ['memory', '1G', '--cache', 'none'], /--cache/],
  ['two sizes', ['memory', '1G', '2G'], /argument/],
])('a bad command line: %s', async (_name, args, message) => {
  await using directory = await temporaryDirectory();
  expect(await expectRefusal([...args, '-U', directory.file('s')])).toMatch(message);
});

test.each([
  ['flush', COMMAND.flush, 0],
  ['small write', COMMAND.write, 1],
])(
  'more requests (%s) at once than may be in flight are all answered, and those after them',
  async (_name, type, length) => {
    await using server = await startServer(['memory', '1M']);
    await using client = await RawClient.connect(server);
    await client.handshake();
    const request = Buffer.concat([encodeRequest({ type, length }), Buffer.alloc(length)]);
    for (let round = 0; round < 3; round += 1) {
      const count = 3000;
      await client.send(Buffer.concat(Array.from({ length: count }, () => request)));
      for (let index = 0; index < count; index += 1) {
        expect((await client.receiveReply()).error).toBe(0);
      }
    }
  },
);
