/** Overlays through real servers and clients: killed, filled up, shared, and used by QEMU. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { mkdir, readFile } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { expect, test } from 'vitest';
import { attempt, childEnvironment, privileged, run } from '../support/command.ts';
import { createFullImage, createImage, expectSameContent, sha256 } from '../support/image.ts';
import { PYTHON, python } from '../support/python.ts';
import { expectRefusal, startServer } from '../support/server.ts';
import { MiB, Mount } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const BLOCK = 4096;
const BLOCKS = 2048;

/** Writes blocks that say which one and which version they are, and prints what each FLUSH has promised. */
const WRITER = `
import json, random, struct, sys, nbd
def connect():
    h = nbd.NBD()
    h.connect_uri(sys.argv[1])
    return h
nbd_uri, seed = sys.argv[1], int(sys.argv[2])
h, flusher = connect(), connect()
rng = random.Random(seed)
promised, version = {}, seed << 32
try:
    while True:
        for block in rng.sample(range(${BLOCKS}), 20):
            version += 1
            h.pwrite(bytearray(struct.pack('<QQ', block, version) * ${BLOCK / 16}), block * ${BLOCK})
            promised[block] = version
        flusher.flush()
        print(json.dumps(promised), flush=True)
except (nbd.Error, BrokenPipeError):
    pass
`;

type Promised = Record<string, number>;

test('kill -9: a kept overlay holds all that was promised, again and again, and the base is untouched', async () => {
  await using directory = await temporaryDirectory();
  const [base, overlay] = [directory.file('base.img'), directory.file('overlay')];
  await createFullImage(base, BLOCK * BLOCKS);
  const [original, before] = [await readFile(base), await sha256(base)];
  const promised: Promised = {};
  for (const round of [1, 2]) {
    await using server = await startServer(['file', base, '--filter', `cow:overlay=${overlay}`]);
    const writer = spawn(PYTHON, ['-c', WRITER, server.uri, String(round)], {
      env: childEnvironment(),
      stdio: ['ignore', 'pipe', 'inherit'],
    });
    let count = 0;
    for await (const line of createInterface(writer.stdout)) {
      // Replies that were sent before the kill count as well.
      Object.assign(promised, JSON.parse(line) as Promised);
      count += 1;
      if (count === 4) server.signal('SIGKILL');
    }
    if (writer.exitCode === null) await once(writer, 'close');
    await server.ended();
  }
  await using server = await startServer(['file', base, '-r', '--filter', `cow:overlay=${overlay}`]);
  const copy = directory.file('copy.img');
  await run(['nbdcopy', server.uri, copy]);
  const found = await readFile(copy);
  expect(Object.keys(promised).length).toBeGreaterThan(100);
  for (let block = 0; block < BLOCKS; block += 1) {
    const at = block * BLOCK;
    const isOriginal = found.subarray(at, at + BLOCK).equals(original.subarray(at, at + BLOCK));
    const least = promised[block];
    if (least === undefined && isOriginal) continue;
    // Written without a promise, or as promised, or later.
    const [number, version] = [found.readBigUInt64LE(at), found.readBigUInt64LE(at + 8)];
    expect(number, `block ${block}`).toBe(BigInt(block));
    expect(version >= BigInt(least ?? 0), `block ${block} has version ${version}, not ${least}`).toBe(true);
  }
  expect(await sha256(base)).toBe(before);
});

test('the base is only read: it may be read-only, shared with others, and not written by anybody', async () => {
  await using directory = await temporaryDirectory();
  const base = directory.file('base.img');
  await createFullImage(base, 4 * MiB);
  await run(['chmod', '444', base]);
  const cow = (name: string): string[] => ['file', base, '--filter', `cow:overlay=${directory.file(name)}`];
  await using one = await startServer(cow('one'));
  await using other = await startServer(['file', base, '--filter', 'cow']);
  await using plain = await startServer(['file', base, '-r']);
  await python(one.uri, "h = connect(); h.pwrite(b'one', 5); h.flush()");
  await python(other.uri, "h = connect(); h.pwrite(b'other', 5); h.flush()");
  const read = 'print(bytes(connect().pread(5, 5)))';
  expect(await python(one.uri, read)).toMatch(/^b'one/);
  expect(await python(other.uri, read)).toBe("b'other'\n");
  const [first, second] = await Promise.all([
    run(['qemu-img', 'info', base]),
    python(plain.uri, read),
    expectRefusal([...cow('one'), '-U', directory.file('s')]),
    expectRefusal(['file', base, '-U', directory.file('s')]),
  ]);
  expect(first).toContain('raw');
  expect(second).not.toMatch(/one|other/);
  const { code, stderr } = await attempt(['qemu-io', '-f', 'raw', '-c', 'write 0 512', base]);
  expect(code).not.toBe(0);
  expect(stderr).toMatch(/lock/i);
});

test('an overlay whose disk is full fails the write that does not fit, and keeps what it has', async () => {
  await using directory = await temporaryDirectory();
  const [base, mountPoint] = [directory.file('base.img'), directory.file('small')];
  await createImage(base, 16 * MiB);
  await mkdir(mountPoint);
  await run(privileged('mount', '-t', 'tmpfs', '-o', 'size=2m,mode=777', 'tmpfs', mountPoint));
  await using _mount = new Mount(mountPoint);
  const args = ['file', base, '--filter', `cow:overlay=${mountPoint}/overlay`];
  {
    await using server = await startServer(args);
    await python(
      server.uri,
      `
h = connect()
h.pwrite(b'kept' * 1024, 100)
fails(errno.ENOSPC, h.pwrite, bytearray(b'x' * (4 << 20)), 1 << 20)
h.flush()
h.zero(1 << 20, 8 << 20)
h.flush()
assert h.pread(4096, 100) == b'kept' * 1024
assert h.pread(1 << 20, 8 << 20) == bytearray(1 << 20)
`,
    );
  }
  await using server = await startServer(args);
  await python(server.uri, "assert connect().pread(4096, 100) == b'kept' * 1024");
});

test('clients see which parts of an overlay are there, and trim and zero them', async () => {
  await using directory = await temporaryDirectory();
  const [base, overlay] = [directory.file('base.img'), directory.file('overlay')];
  await createImage(base, 2 * MiB, [{ offset: 0, length: MiB }]);
  await using server = await startServer(['file', base, '--filter', `cow:overlay=${overlay}`]);
  await run([
    'qemu-io',
    '-f',
    'raw',
    '-c',
    'write -P 7 192k 64k',
    '-c',
    'write -z 320k 64k',
    '-c',
    'write -P 8 1536k 4k',
    '-c',
    'flush',
    server.uri,
  ]);
  const map = async (context: string): Promise<number[][]> =>
    (
      JSON.parse(await run(['nbdinfo', `--map=${context}`, '--json', server.uri])) as Record<string, number>[]
    ).map(({ offset = 0, length = 0, type = 0 }) => [offset / 1024, length / 1024, type]);
  expect(await map('qemu:allocation-depth')).toEqual([
    [0, 192, 2],
    [192, 64, 1],
    [256, 64, 2],
    [320, 64, 1],
    [384, 640, 2],
    [1024, 512, 0],
    [1536, 64, 1],
    [1600, 448, 0],
  ]);
  expect(await map('base:allocation')).toEqual([
    [0, 320, 0],
    [320, 64, 3],
    [384, 640, 0],
    [1024, 512, 3],
    [1536, 64, 0],
    [1600, 448, 3],
  ]);
  await run([
    'qemu-io',
    '-f',
    'raw',
    '-c',
    'discard 192k 64k',
    '-c',
    'read -P 0 192k 64k',
    '-c',
    'read -P 8 1536k 4k',
    '-c',
    'read -P 0 1540k 60k',
    server.uri,
  ]);
});

test.each(['default', 'none'])('a copy of an image through cow is the image, --cache %s', async (cache) => {
  await using directory = await temporaryDirectory();
  const [base, image, copy] = ['base.img', 'image.img', 'copy.img'].map((name) => directory.file(name)) as [
    string,
    string,
    string,
  ];
  // Not whole blocks.
  await createFullImage(base, 9 * MiB + 512);
  await createImage(image, 9 * MiB + 512, [
    { offset: 3000, length: 2 * MiB },
    { offset: 5 * MiB, length: 4 * MiB + 512 },
  ]);
  const filter = `cow:overlay=${directory.file('overlay')},cache=${cache}`;
  {
    await using server = await startServer(['file', base, '--cache', cache, '--filter', filter]);
    await run(['nbdcopy', '--flush', image, server.uri]);
  }
  await using server = await startServer(['file', base, '-r', '--filter', filter]);
  await run(['nbdcopy', server.uri, copy]);
  await expectSameContent(image, copy);
});
