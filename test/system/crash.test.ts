/** The server is killed, or the disk cut off, in the middle of writes: what was promised is there afterwards. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { open, readFile, rm } from 'node:fs/promises';
import { createInterface } from 'node:readline';
import { describe, expect, test } from 'vitest';
import { Cleanup } from '../support/cleanup.ts';
import { attempt, childEnvironment, run } from '../support/command.ts';
import { createFullImage, createImage } from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { PYTHON } from '../support/python.ts';
import { CACHE_MODES, startServer } from '../support/server.ts';
import { attachLoop, MiB, makeFileSystem, mountDevice } from '../support/storage.ts';
import { type TemporaryDirectory, temporaryDirectory } from '../support/temporary-directory.ts';

const BLOCK = 4096;
const BLOCKS = 4096;

/**
 * Two connections write blocks that say which block they are and which version, at random, several in flight;
 * a third one sends FLUSH now and then. A line is printed after each FLUSH: the version of every block that
 * was acknowledged before it was sent. \`arguments\`: FLUSHes, and whether to wait for a line of input after each.
 */
const WRITER = `
import json, random, struct, sys, nbd
uri, flushes, waits = sys.argv[1], int(sys.argv[2]), sys.argv[3] == 'wait'
BLOCK, BLOCKS = ${BLOCK}, ${BLOCKS}
def connect():
    h = nbd.NBD()
    h.set_uri_allow_local_file(True)
    h.connect_uri(uri)
    return h
writers, flusher = [connect(), connect()], connect()
rng = random.Random(7)
acknowledged, version = {}, 0
try:
    for _ in range(flushes):
        for _ in range(40):
            # Each batch has every block at most once: overlapping writes have no order.
            batch = rng.sample(range(BLOCKS), 16)
            cookies = []
            for index, block in enumerate(batch):
                version += 1
                data = nbd.Buffer.from_bytearray(bytearray(struct.pack('<QQ', block, version) * (BLOCK // 16)))
                cookies.append((writers[index % 2], writers[index % 2].aio_pwrite(data, block * BLOCK), block, version))
            while cookies:
                for entry in list(cookies):
                    h, cookie, block, written = entry
                    h.poll(0)
                    if h.aio_command_completed(cookie):
                        acknowledged[block] = written
                        cookies.remove(entry)
        promised = dict(acknowledged)
        flusher.flush()
        print(json.dumps(promised), flush=True)
        if waits:
            sys.stdin.readline()
except (nbd.Error, BrokenPipeError):
    pass
`;

type Promised = Readonly<Record<string, number>>;

/** Fails unless every promised block is there, in the promised version or a later one. */
async function expectPromised(path: string, promised: Promised): Promise<void> {
  const image = await readFile(path);
  const broken: string[] = [];
  for (const [block, version] of Object.entries(promised)) {
    const offset = Number(block) * BLOCK;
    for (let at = offset; at < offset + BLOCK; at += 16) {
      const [found, foundVersion] = [image.readBigUInt64LE(at), Number(image.readBigUInt64LE(at + 8))];
      if (found !== BigInt(block) || foundVersion < version) {
        broken.push(`block ${block} at ${at}: version ${foundVersion}, promised ${version}`);
        break;
      }
    }
  }
  expect(Object.keys(promised).length).toBeGreaterThan(100);
  expect(broken.slice(0, 5), `${broken.length} of ${Object.keys(promised).length} blocks`).toEqual([]);
}

/** The writer as a child: its promises one by one, and a way to let it go on. */
class Writer implements AsyncDisposable {
  readonly #child;
  readonly #lines;

  constructor(uri: string, flushes: number, pace: 'wait' | 'run') {
    this.#child = spawn(PYTHON, ['-c', WRITER, uri, String(flushes), pace], {
      env: childEnvironment(),
      stdio: ['pipe', 'pipe', 'inherit'],
    });
    this.#lines = createInterface(this.#child.stdout)[Symbol.asyncIterator]();
  }

  /** What was promised by the next FLUSH that succeeded; undefined when the server is gone. */
  async next(): Promise<Promised | undefined> {
    const line = await this.#lines.next();
    return line.done === true ? undefined : (JSON.parse(line.value) as Promised);
  }

  goOn(): void {
    this.#child.stdin.write('\n');
  }

  async [Symbol.asyncDispose](): Promise<void> {
    if (this.#child.exitCode === null && this.#child.signalCode === null) {
      this.#child.kill('SIGKILL');
      await once(this.#child, 'close');
    }
  }
}

/** More than a client says that gives up, in bytes. */
const LAST_WORDS_MAX = 1024 * 1024;
const TRIES = 5;

/**
 * Where the writes went that fio had been answered when its server was killed. Now and then fio 3.33 never gives up
 * (its io_u_quiesce asks the dead connection for the requests in flight for ever) and leaves no log: then again.
 */
async function acknowledgedByFio(
  cache: string,
  image: string,
  directory: TemporaryDirectory,
): Promise<number[]> {
  for (let attempted = 0; attempted < TRIES; attempted += 1) {
    await createImage(image, 64 * MiB);
    await using server = await startServer(['file', image, '--cache', cache]);
    let hasGivenUp = true;
    const fio = attempt(fioWrites(server.uri, directory), {
      started: (child) => {
        let said = 0;
        child.stderr?.on('data', (text: string) => {
          said += text.length;
          if (said > LAST_WORDS_MAX && hasGivenUp) {
            hasGivenUp = false;
            child.kill('SIGKILL');
          }
        });
      },
    }).catch((error: unknown) => {
      if (hasGivenUp) throw error;
    });
    // Some thousand writes later: how many does not matter, only that it is in the middle.
    await eventually('fio has written a good part', async () => {
      const used = Number((await run(['stat', '--format=%b', image])).trim()) * 512;
      return used > 4 * MiB ? true : undefined;
    });
    server.signal('SIGKILL');
    await server.ended();
    const end = await fio;
    if (end !== undefined) {
      expect(end.code).not.toBe(0);
      const log = await readFile(directory.file('fio_clat.1.log'), 'utf8');
      return log
        .trimEnd()
        .split('\n')
        .map((line) => line.split(',').map(Number))
        .filter(([, , direction, size, offset]) => direction === 1 && size === BLOCK && offset !== 0)
        .map(([, , , , offset]) => offset ?? -1);
    }
    await rm(image);
  }
  throw new Error(`fio did not notice that its server was gone, ${TRIES} times`);
}

function fioWrites(uri: string, directory: TemporaryDirectory): readonly [string, ...string[]] {
  return [
    'fio',
    '--name=job',
    '--ioengine=nbd',
    `--uri=${uri}`,
    '--rw=randwrite',
    '--bs=4k',
    '--iodepth=16',
    '--size=64M',
    '--time_based',
    '--runtime=60',
    '--fsync=64',
    // Every block consists of its own offset.
    '--verify=pattern',
    '--verify_pattern=%o',
    '--do_verify=0',
    '--log_offset=1',
    `--write_lat_log=${directory.file('fio')}`,
    `--aux-path=${directory.path}`,
    `--output=${directory.file('fio.out')}`,
  ];
}

describe.each(CACHE_MODES)('kill -9 in the middle of writes, --cache %s', (cache) => {
  test('leaves everything in the image that a FLUSH had promised', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, BLOCK * BLOCKS);
    await using server = await startServer(['file', image, '--cache', cache]);
    await using writer = new Writer(server.uri, 1_000_000, 'run');
    let promised: Promised = {};
    for (let flushes = 0; flushes < 5; flushes += 1) promised = (await writer.next()) ?? {};
    server.signal('SIGKILL');
    await server.ended();
    // Replies that were sent before the kill count as well.
    for (let more = await writer.next(); more !== undefined; more = await writer.next()) promised = more;
    await expectPromised(image, promised);
  });

  test('leaves every write of fio that was acknowledged', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    const offsets = await acknowledgedByFio(cache, image, directory);
    expect(offsets.length).toBeGreaterThan(500);
    const content = await readFile(image);
    const lost = offsets.filter((offset) => content.readBigUInt64LE(offset + 8) !== BigInt(offset));
    expect(lost.length, `of ${offsets.length} acknowledged writes`).toBe(0);
  });
});

describe.each(CACHE_MODES)('a disk that is cut off at the reply of a FLUSH, --cache %s', (cache) => {
  test.each(['ext4', 'xfs'] as const)(
    'holds everything promised when it is mounted again, %s',
    async (type) => {
      await using cleanup = new Cleanup();
      const directory = cleanup.use(await temporaryDirectory());
      const backing = directory.file('file-system.img');
      await using file = await open(backing, 'w');
      await file.truncate(320 * MiB);
      await makeFileSystem(type, backing);
      const device = cleanup.use(await attachLoop(backing));
      const mount = cleanup.use(await mountDevice(device.path, directory.file('mount')));
      const image = `${mount.path}/disk.img`;
      // Holes and data: new blocks need the journal, old ones do not.
      await createFullImage(image, (BLOCK * BLOCKS) / 2);
      await run(['truncate', `--size=${BLOCK * BLOCKS}`, image]);
      const server = cleanup.use(await startServer(['file', image, '--cache', cache]));
      const writer = cleanup.use(new Writer(server.uri, 4, 'wait'));
      for (let round = 0; round < 3; round += 1) {
        const promised = await writer.next();
        const copy = directory.file(`cut-${round}.img`);
        // The writer waits. What the file system still holds back is not in the backing file, and is lost here.
        await run(['cp', '--reflink=auto', '--sparse=always', backing, copy]);
        writer.goOn();
        await using after = new Cleanup();
        const copyDevice = after.use(await attachLoop(copy));
        const copyMount = after.use(
          // XFS would take the copy for the original, which is mounted.
          await mountDevice(
            copyDevice.path,
            directory.file(`mount-${round}`),
            type === 'xfs' ? ['-o', 'nouuid'] : [],
          ),
        );
        await expectPromised(`${copyMount.path}/disk.img`, promised ?? {});
      }
    },
  );
});
