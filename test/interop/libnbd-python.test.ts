import { stat } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import {
  allocatedBytes,
  createFullImage,
  createImage,
  evict,
  expectBytes,
  fileExtents,
  noise,
  readRange,
  residentPages,
  sha256,
} from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { python } from '../support/python.ts';
import { CACHE_MODES, startServer } from '../support/server.ts';
import { MiB, TiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const SIZE = 16 * MiB;

describe.each(CACHE_MODES)('with --cache %s', (cache) => {
  test('libnbd keeps 64 requests in flight and every reply belongs to its request', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, 64 * MiB);
    await using server = await startServer(['file', image, '--cache', cache]);
    await python(
      server.uri,
      `
h = connect()
def content(index, length):
    return bytearray((index * 131 + 7).to_bytes(4, 'big') * (length // 4))
lengths = [512, 4096, 65536, 1048576]
writes, offset = [], 0
for index in range(64):
    length = lengths[index % 4]
    writes.append((index, offset, length))
    offset += length
finish(h, [h.aio_pwrite(nbd.Buffer.from_bytearray(content(i, n)), at) for i, at, n in writes])
buffers = [nbd.Buffer(n) for _, _, n in writes]
finish(h, [h.aio_pread(buffer, at) for buffer, (_, at, _) in zip(buffers, writes)])
for buffer, (i, at, n) in zip(buffers, writes):
    assert buffer.to_bytearray() == content(i, n), f'wrong data at {at}'
h.flush()
h.shutdown()
`,
    );
  });

  test('libnbd mixes reads, writes, zeroes, trims and flushes in flight', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createFullImage(image, 64 * MiB);
    await using server = await startServer(['file', image, '--cache', cache]);
    await python(
      server.uri,
      `
h = connect()
K = 1024
before = h.pread(32 * K * K, 0)
cookies, buffers = [], []
for i in range(64):
    base = i * 512 * K
    cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i + 1]) * (64 * K)), base))
    cookies.append(h.aio_zero(64 * K, base + 64 * K))
    cookies.append(h.aio_trim(64 * K, base + 128 * K))
    cookies.append(h.aio_zero(64 * K, base + 192 * K, flags=nbd.CMD_FLAG_NO_HOLE))
    buffer = nbd.Buffer(256 * K)
    buffers.append((base + 256 * K, buffer))
    cookies.append(h.aio_pread(buffer, base + 256 * K))
    if i % 8 == 0:
        cookies.append(h.aio_flush())
finish(h, cookies)
for at, buffer in buffers:
    assert buffer.to_bytearray() == before[at:at + 256 * K], at
for i in range(64):
    base = i * 512 * K
    assert h.pread(64 * K, base) == bytearray([i + 1]) * (64 * K)
    assert h.pread(64 * K, base + 64 * K) == bytearray(64 * K)
    assert h.pread(64 * K, base + 192 * K) == bytearray(64 * K)
h.shutdown()
`,
    );
  });

  test('libnbd writes on one connection, flushes on a second and reads on a third', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, SIZE);
    await using server = await startServer(['file', image, '--cache', cache]);
    await python(
      server.uri,
      `
a, b, c = connect(), connect(), connect()
assert a.can_multi_conn()
for i in range(1, 100):
    block = bytearray([i]) * 70000
    a.pwrite(block, i * 100003)
    assert c.pread(70000, i * 100003) == block, 'a read on another connection is stale'
    b.flush()
    assert c.pread(70000, i * 100003) == block
    a.zero(70000, i * 100003)
    assert c.pread(70000, i * 100003) == bytearray(70000)
    b.pwrite(block, i * 100003, nbd.CMD_FLAG_FUA)
    assert a.pread(70000, i * 100003) == block
for h in (a, b, c):
    h.shutdown()
`,
    );
    await expectBytes(image, 99 * 100_003, Buffer.alloc(70_000, 99));
  });

  test('libnbd reads cold data in every size around the powers of two, with many requests in flight', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createFullImage(image, 64 * MiB);
    await using server = await startServer(['file', image, '--cache', cache, '--read-only']);
    for (const structured of ['True', 'False']) {
      await evict(image);
      await python(
        server.uri,
        `
h = connect(setup=lambda h: h.set_request_structured_replies(${structured}))
size = h.get_size()
expected = open(arguments[0], 'rb')
lengths = [2 ** power + more for power in range(9, 21) for more in (-29, -28, -16, -1, 0, 1)]
reads = [(length, (index * 7919 * 4096) % (size - length))
         for index, length in enumerate(lengths * 8)]
for start in range(0, len(reads), 64):
    batch = [(nbd.Buffer(length), offset) for length, offset in reads[start:start + 64]]
    finish(h, [h.aio_pread(buffer, offset) for buffer, offset in batch])
    for buffer, offset in batch:
        data = buffer.to_bytearray()
        expected.seek(offset)
        assert data == expected.read(len(data)), f'wrong data: {len(data)} at {offset}'
h.shutdown()
`,
        [image],
      );
    }
  });

  test('libnbd reads and writes at every odd offset around a page border', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, MiB + 513);
    await using server = await startServer(['file', image, '--cache', cache]);
    await python(
      server.uri,
      `
h = connect()
size = h.get_size()
model = bytearray(size)
step = 0
for offset in list(range(4090, 4102)) + list(range(size - 600, size, 37)):
    for length in (1, 511, 513, 4097):
        if offset + length > size:
            length = size - offset
        step += 1
        block = bytearray([step % 255 + 1]) * length
        h.pwrite(block, offset)
        model[offset:offset + length] = block
        assert h.pread(length, offset) == block
        if step % 3 == 0:
            zeroed = length // 2 + 1
            h.zero(zeroed, offset)
            model[offset:offset + zeroed] = bytes(zeroed)
assert h.pread(size, 0) == model
h.shutdown()
`,
    );
    expect((await stat(image)).size).toBe(MiB + 513);
  });
});

test('libnbd may set FUA on every command', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, SIZE);
  await using server = await startServer(['file', image]);
  await python(
    server.uri,
    `
h = connect(strict=0, setup=lambda h: h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION))
FUA = nbd.CMD_FLAG_FUA
h.pread(4096, 0, FUA)
h.pwrite(bytearray(4096), 0, FUA)
h.flush(FUA)
h.trim(4096, 4096, FUA)
h.cache(4096, 8192, FUA)
h.zero(4096, 12288, FUA)
h.zero(4096, 16384, FUA | nbd.CMD_FLAG_NO_HOLE)
status(h, 65536, 0, FUA)
h.shutdown()
`,
  );
});

test('flags that are unknown or not meant for a command are refused with EINVAL', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, SIZE);
  const before = await sha256(image);
  await using server = await startServer(['file', image]);
  await python(
    server.uri,
    `
h = connect(strict=0, setup=lambda h: h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION))
NO_HOLE, DF, REQ_ONE, FAST_ZERO = (nbd.CMD_FLAG_NO_HOLE, nbd.CMD_FLAG_DF,
    nbd.CMD_FLAG_REQ_ONE, nbd.CMD_FLAG_FAST_ZERO)
PAYLOAD_LEN, UNKNOWN = 1 << 5, 1 << 15
block = bytearray(b'x' * 5000)
def ignore(*rest): pass
for flag in (NO_HOLE, REQ_ONE, FAST_ZERO, PAYLOAD_LEN, UNKNOWN):
    fails(errno.EINVAL, h.pread, 4096, 0, flag)
for flag in (NO_HOLE, DF, REQ_ONE, FAST_ZERO, PAYLOAD_LEN, UNKNOWN):
    fails(errno.EINVAL, h.pwrite, block, 0, flag)
    fails(errno.EINVAL, h.trim, 4096, 0, flag)
    fails(errno.EINVAL, h.cache, 4096, 0, flag)
    fails(errno.EINVAL, h.flush, flag)
for flag in (DF, REQ_ONE, PAYLOAD_LEN, UNKNOWN):
    fails(errno.EINVAL, h.zero, 4096, 0, flag)
for flag in (NO_HOLE, DF, FAST_ZERO, PAYLOAD_LEN, UNKNOWN):
    fails(errno.EINVAL, h.block_status, 4096, 0, ignore, flag)
# The connection is still in step, and DF is fine where it belongs.
h.pread(4096, 0, DF)
h.shutdown()
`,
  );
  expect(await sha256(image)).toBe(before);
});

test('DF is refused with EINVAL when structured replies were not negotiated', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, SIZE);
  await using server = await startServer(['file', image]);
  await python(
    server.uri,
    `
h = connect(strict=0, setup=lambda h: h.set_request_structured_replies(False))
assert not h.get_structured_replies_negotiated()
assert not h.can_df()
fails(errno.EINVAL, h.pread, 4096, 0, nbd.CMD_FLAG_DF)
h.pread(4096, 0)
h.shutdown()
`,
  );
});

test('requests outside the export get the errno of their kind and change nothing', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, MiB + 513);
  const before = await sha256(image);
  await using server = await startServer(['file', image]);
  await python(
    server.uri,
    `
for structured in (True, False):
    def setup(h):
        h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
        h.set_request_structured_replies(structured)
    h = connect(strict=0, setup=setup)
    size = h.get_size()
    def ignore(*rest): pass
    for offset, length in ((size, 1), (size - 1, 2), (0, size + 1), (2 ** 63 - 512, 512),
                           (2 ** 40, 512), (size - 512, 2 ** 20)):
        fails(errno.EINVAL, h.pread, length, offset)
        fails(errno.ENOSPC, h.pwrite, bytearray(length), offset)
        fails(errno.ENOSPC, h.zero, length, offset)
        fails(errno.EINVAL, h.trim, length, offset)
        fails(errno.EINVAL, h.cache, length, offset)
        if structured:
            fails(errno.EINVAL, h.block_status, length, offset, ignore)
    fails(errno.ENOSPC, h.zero, 2 ** 32 - 1, 2 ** 63 - 1)
    fails(errno.EINVAL, h.trim, 2 ** 32 - 1, 2 ** 63 - 1)
    assert len(h.pread(size, 0)) == size
    h.shutdown()
`,
  );
  expect(await sha256(image)).toBe(before);
  expect((await stat(image)).size).toBe(MiB + 513);
});

test('requests of length zero are answered and the connection goes on', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, SIZE);
  const before = await sha256(image);
  await using server = await startServer(['file', image]);
  await python(
    server.uri,
    `
for structured in (True, False):
    h = connect(strict=0, setup=lambda h: h.set_request_structured_replies(structured))
    assert h.pread(0, 0) == bytearray()
    assert h.pread(0, h.get_size()) == bytearray()
    h.pwrite(bytearray(), 0)
    h.zero(0, 0)
    h.trim(0, 0)
    h.pread(512, 0)
    h.shutdown()
`,
  );
  expect(await sha256(image)).toBe(before);
});

test('writing to a read-only export fails with EPERM and changes nothing', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, SIZE);
  const before = await stat(image);
  const content = await sha256(image);
  await using server = await startServer(['file', image, '--read-only']);
  await python(
    server.uri,
    `
h = connect(strict=0)
assert h.is_read_only()
for flags in (0, nbd.CMD_FLAG_FUA):
    fails(errno.EPERM, h.pwrite, bytearray(100000), 0, flags)
    fails(errno.EPERM, h.zero, 4096, 0, flags)
    fails(errno.EPERM, h.trim, 4096, 0, flags)
h.pread(4096, 0)
h.shutdown()
`,
  );
  expect(await sha256(image)).toBe(content);
  expect((await stat(image)).mtimeMs).toBe(before.mtimeMs);
});

test('libnbd trims: the blocks are freed and read as zeros', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, SIZE);
  await using server = await startServer(['file', image, '--cache', 'none']);
  await python(
    server.uri,
    `
h = connect()
h.trim(8 * 1024 * 1024, 4 * 1024 * 1024)
assert h.pread(8 * 1024 * 1024, 4 * 1024 * 1024) == bytearray(8 * 1024 * 1024)
h.shutdown()
`,
  );
  expect(await allocatedBytes(image)).toBeLessThanOrEqual(9 * MiB);
});

test('zeroing with NO_HOLE provisions the blocks, zeroing without it may free them', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE);
  await using server = await startServer(['file', image]);
  await python(
    server.uri,
    'h = connect(); h.zero(8 << 20, 0, nbd.CMD_FLAG_NO_HOLE); h.flush(); h.shutdown()',
  );
  expect(await allocatedBytes(image)).toBeGreaterThanOrEqual(8 * MiB);
  await python(
    server.uri,
    `
h = connect()
h.pwrite(bytearray(b'x' * 65536), 0)
h.zero(8 << 20, 0, nbd.CMD_FLAG_NO_HOLE)
assert h.pread(65536, 0) == bytearray(65536)
h.shutdown()
`,
  );
  expect(await allocatedBytes(image)).toBeGreaterThanOrEqual(8 * MiB);
  await python(server.uri, 'h = connect(); h.zero(8 << 20, 0); h.flush(); h.shutdown()');
  expect(await allocatedBytes(image)).toBeLessThanOrEqual(MiB);
});

test('a fast zero either zeroes or says ENOTSUP and leaves the data alone', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, SIZE);
  await using server = await startServer(['file', image]);
  const outcome = await python(
    server.uri,
    `
h = connect()
assert h.can_fast_zero()
before = h.pread(65536, 0)
try:
    h.zero(65536, 0, nbd.CMD_FLAG_FAST_ZERO)
    assert h.pread(65536, 0) == bytearray(65536)
    print('zeroed', end='')
except nbd.Error as error:
    assert error.errnum == errno.ENOTSUP, error
    assert h.pread(65536, 0) == before
    print('refused', end='')
h.zero(65536, 65536)
assert h.pread(65536, 65536) == bytearray(65536)
h.shutdown()
`,
  );
  expect(outcome).toMatch(/^(zeroed|refused)$/);
});

test('block status agrees with lseek before and after writes, trims and zeroes', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, 32 * MiB + 513, [
    { offset: MiB, length: 64 * 1024 },
    { offset: 5 * MiB + 4096, length: 3 * MiB },
    { offset: 32 * MiB - 4096, length: 4096 + 513 },
  ]);
  await using server = await startServer(['file', image]);
  const map = async (): Promise<unknown> =>
    JSON.parse(
      await python(
        server.uri,
        `
h = connect(setup=lambda h: h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION))
print(json.dumps(extents(h)))
h.shutdown()
`,
      ),
    );
  const oracle = async (): Promise<unknown> =>
    (await fileExtents(image)).map(({ offset, length, hole }) => [offset, length, hole ? 3 : 0]);

  expect(await map()).toEqual(await oracle());
  await python(
    server.uri,
    `
h = connect()
h.pwrite(bytearray(b'y' * 8192), 20 << 20)
h.trim(1 << 20, 6 << 20)
h.zero(65536, 1 << 20)
h.flush()
h.shutdown()
`,
  );
  const after = await map();
  expect(after).toEqual(await oracle());
  expect(after).toContainEqual([20 * MiB, 8192, 0]);
});

test('block status with REQ_ONE answers one extent inside the request', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE, [{ offset: MiB, length: MiB }]);
  await using server = await startServer(['file', image]);
  await python(
    server.uri,
    `
h = connect(setup=lambda h: h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION))
M = 1 << 20
ONE = nbd.CMD_FLAG_REQ_ONE
assert status(h, 16 * M, 0, ONE) == [(M, 3)]
assert status(h, 512, 0, ONE) == [(512, 3)]
assert status(h, 16 * M - M, M, ONE) == [(M, 0)]
assert status(h, 4096, M + 4096, ONE) == [(4096, 0)]
assert status(h, 14 * M, 2 * M, ONE) == [(14 * M, 3)]
assert status(h, 1, 16 * M - 1, ONE) == [(1, 3)]
answer = status(h, 3 * M, 0)
assert answer[:2] == [(M, 3), (M, 0)], answer
assert sum(length for length, _ in answer[:-1]) < 3 * M
h.shutdown()
`,
  );
});

test('block status without a meta context is refused with EINVAL', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE);
  await using server = await startServer(['file', image]);
  await python(
    server.uri,
    `
h = connect(strict=0)
assert not h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
fails(errno.EINVAL, h.block_status, 4096, 0, lambda *rest: None)
h.pread(512, 0)
h.shutdown()
`,
  );
});

test('offsets beyond 4 GiB work in a sparse image of 1 TiB', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, TiB);
  await using server = await startServer(['file', image, '--cache', 'none']);
  await python(
    server.uri,
    `
h = connect(setup=lambda h: h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION))
assert h.get_size() == 1 << 40
places = [2 ** 32 - 4096, 2 ** 32, 2 ** 33 + 12288, 2 ** 39 + 4096, 2 ** 40 - 8192]
for number, offset in enumerate(places, 1):
    h.pwrite(bytearray([number]) * 8192, offset)
h.flush()
for number, offset in enumerate(places, 1):
    # The second write overlapped the end of the first.
    expected = bytearray([number]) * 8192
    if number == 1:
        expected[4096:] = bytearray([2]) * 4096
    assert h.pread(8192, offset) == expected, hex(offset)
assert h.pread(65536, 2 ** 38) == bytearray(65536)
data = [extent[:2] for extent in extents(h) if extent[2] == 0]
assert data == [[2 ** 32 - 4096, 12288], [2 ** 33 + 12288, 8192], [2 ** 39 + 4096, 8192],
                [2 ** 40 - 8192, 8192]], data
h.trim(2 ** 32 - 4096, 2 ** 39)
h.zero(2 ** 32 - 4096, 2 ** 33)
assert h.pread(8192, 2 ** 33 + 12288) == bytearray(8192)
data = [extent[:2] for extent in extents(h) if extent[2] == 0]
assert data == [[2 ** 32 - 4096, 12288], [2 ** 40 - 8192, 8192]], data
h.shutdown()
`,
  );
  await expectBytes(image, TiB - 8192, Buffer.alloc(8192, 5));
  expect(await allocatedBytes(image)).toBeLessThan(MiB);
});

test('reads and writes of 32 MiB are served in one request', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, 64 * MiB);
  await using server = await startServer(['file', image, '--cache', 'none']);
  await python(
    server.uri,
    `
for structured in (True, False):
    h = connect(setup=lambda h: h.set_request_structured_replies(structured))
    M = 1 << 20
    assert h.get_block_size(nbd.SIZE_MAXIMUM) == 32 * M
    block = bytearray(os.urandom(32 * M))
    h.pwrite(block, 7 * M + 5)
    assert h.pread(32 * M, 7 * M + 5) == block
    cookies = []
    for i in range(6):
        cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(block), i * M))
    finish(h, cookies)
    assert h.pread(32 * M, 5 * M) == block
    h.shutdown()
`,
  );
});

test('a write beyond the size limit does no harm', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, 64 * MiB);
  await using server = await startServer(['file', image]);
  await python(
    server.uri,
    `
h = connect(strict=0)
try:
    h.pwrite(bytearray(b'z' * (33 << 20)), 0)
    raise AssertionError('it was accepted')
except nbd.Error:
    pass  # EINVAL and a closed connection are both allowed.
h = connect()
assert h.pread(4096, 0) == bytearray(4096)
h.shutdown()
`,
  );
  expect(await allocatedBytes(image)).toBe(0);
});

test('a structured read covers the request exactly once, with holes as holes or zeros', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE, [{ offset: MiB, length: MiB }]);
  await using server = await startServer(['file', image]);
  await python(
    server.uri,
    `
h = connect()
M = 1 << 20
def read(flags):
    pieces, content = [], bytearray(3 * M)
    def take(data, offset, kind, error):
        assert kind in (nbd.READ_DATA, nbd.READ_HOLE), kind
        pieces.append((offset, len(data)))
        if kind == nbd.READ_DATA:
            content[offset:offset + len(data)] = data
    h.pread_structured(3 * M, 0, take, flags)
    position = 0
    for offset, length in sorted(pieces):
        assert offset == position, pieces
        position += length
    assert position == 3 * M, pieces
    return pieces, content
plain = h.pread(3 * M, 0)
assert read(0)[1] == plain
pieces, content = read(nbd.CMD_FLAG_DF)
assert len(pieces) == 1 and content == plain
h.shutdown()
`,
  );
});

test.each([
  ['fixed newstyle and no zeroes', 'nbd.HANDSHAKE_FLAG_MASK'],
  ['fixed newstyle with the 124 zeros', 'nbd.HANDSHAKE_FLAG_FIXED_NEWSTYLE'],
  ['the oldest newstyle, which knows EXPORT_NAME only', '0'],
])('libnbd negotiates %s', async (_name, flags) => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, MiB);
  const expected = noise(MiB, 0).toString('hex', 0, 16);
  await using server = await startServer(['file', image, '--export-name', 'old']);
  const content = await python(
    server.uri,
    `
h = connect(setup=lambda h: h.set_handshake_flags(${flags}))
assert h.get_size() == 1 << 20
print(h.pread(16, 0).hex(), end='')
h.pwrite(bytearray(b'abc'), 100)
assert h.pread(3, 100) == b'abc'
h.flush()
h.shutdown()
`,
  );
  expect(content).toBe(expected);
});

test('LIST names the export and INFO tells about it without opening it', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  await using server = await startServer(['file', image, '-e', 'one', '--description', 'the first']);
  await python(
    server.uri,
    `
def setup(h):
    h.set_opt_mode(True)
    h.set_full_info(True)
h = connect(setup=setup)
found = []
h.opt_list(lambda name, description: found.append((name, description)))
assert found == [('one', 'the first')], found
h.set_export_name('one')
h.opt_info()
assert h.get_size() == 1 << 20
assert h.get_export_description() == 'the first'
assert h.can_flush() and h.can_fua() and h.can_multi_conn()
h.opt_info()
h.opt_abort()

h = connect(setup=setup)
h.set_export_name('one')
h.opt_info()
h.opt_go()
h.pread(512, 0)
h.shutdown()
`,
  );
});

test('an unknown export is refused and the right one is opened on the same connection', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  await using server = await startServer(['file', image, '-e', 'right']);
  await python(
    server.uri,
    `
def setup(h):
    h.set_opt_mode(True)
    h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
h = connect(setup=setup)
for name in ('wrong', '', 'righ', 'right ', 'RIGHT', 'r' * 4096):
    h.set_export_name(name)
    fails(errno.ENOENT, h.opt_info)
    fails(errno.ENOENT, h.opt_go)
h.set_export_name('right')
h.opt_go()
assert h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION)
assert status(h, 512, 0) != []
h.pread(512, 0)
h.shutdown()
`,
  );
});

test('meta contexts are listed, selected, and ignored when unknown', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, MiB);
  await using server = await startServer(['file', image]);
  await python(
    server.uri,
    `
def listed(*queries):
    h = connect(setup=lambda h: h.set_opt_mode(True))
    for query in queries:
        h.add_meta_context(query)
    found = []
    h.opt_list_meta_context(lambda name: found.append(name))
    h.opt_abort()
    return found
assert listed() == ['base:allocation', 'x-nbd-serve:resident'], listed()
assert listed('x-nbd-serve:') == ['x-nbd-serve:resident']
assert listed('base:') == ['base:allocation']
assert listed('base:allocation') == ['base:allocation']
assert listed('base:nothing', 'x-other:thing', 'qemu:dirty-bitmap:') == []
assert listed('x-other:thing', 'base:allocation') == ['base:allocation']

def selected(*queries):
    def setup(h):
        for query in queries:
            h.add_meta_context(query)
    h = connect(setup=setup)
    chosen = [query for query in queries if h.can_meta_context(query)]
    h.pread(512, 0)
    h.shutdown()
    return chosen
assert selected('base:allocation') == ['base:allocation']
assert selected('base:') == []
assert selected('base:nothing') == []
assert selected('x-other:thing') == []
assert selected('x-other:thing', 'base:allocation', 'qemu:allocation-depth') == ['base:allocation']
`,
  );
});

test('CACHE reads ahead into the page cache, and not under --cache none', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createFullImage(image, SIZE);
  for (const cache of CACHE_MODES) {
    await evict(image);
    await using server = await startServer(['file', image, '--cache', cache]);
    await python(
      server.uri,
      `
h = connect(strict=0)
try:
    h.cache(h.get_size(), 0)
    h.cache(1, h.get_size() - 1)
except nbd.Error as error:
    assert not h.can_cache() and error.errnum == errno.EINVAL, error
h.pread(512, 0)
h.shutdown()
`,
    );
    const none = cache === 'none';
    await eventually(`CACHE has done its work under --cache ${cache}`, async () => {
      const { resident, pages } = await residentPages(image);
      // How much of the range the kernel reads ahead is its own affair.
      return none === (resident === 0) && resident <= pages ? true : undefined;
    });
  }
});

test('DISC lets every request in flight finish first', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE);
  await using server = await startServer(['file', image, '--cache', 'none']);
  await python(
    server.uri,
    `
h = connect()
answered = []
for i in range(64):
    h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray([i + 1]) * 100000), i * 100000,
                 lambda error: answered.append(error.value) or 1)
h.aio_disconnect()
while not (h.aio_is_closed() or h.aio_is_dead()):
    try:
        h.poll(-1)
    except nbd.Error:
        break
assert answered == [0] * 64, answered
`,
  );
  for (let index = 0; index < 64; index++) {
    const found = await readRange(image, { offset: index * 100_000, length: 100_000 });
    expect(found.equals(Buffer.alloc(100_000, index + 1)), `write ${index}`).toBe(true);
  }
});

test('a hundred connections at once all see the same export', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, SIZE);
  await using server = await startServer(['file', image]);
  await python(
    server.uri,
    `
handles = [connect() for _ in range(100)]
for i, h in enumerate(handles):
    h.pwrite(bytearray([i + 1]) * 1000, i * 1000)
for i, h in enumerate(reversed(handles)):
    assert h.pread(100000, 0) == handles[0].pread(100000, 0)
for h in handles:
    h.shutdown()
`,
  );
});
