/**
 * What `--cache none` promises about the page cache: nothing of the image is in it after a FLUSH, after idling
 * and after the last close, little while data flows, and nothing is read from the disk twice. And the data is
 * right: after every pattern the image is compared with a model that the same client made without a server.
 */
import { copyFile, mkdir } from 'node:fs/promises';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { privileged, run } from '../support/command.ts';
import { allocatedBytes, createFullImage, createImage, expectSameContent } from '../support/image.ts';
import { diskReadBytes, PageCacheProbe } from '../support/page-cache.ts';
import { eventually } from '../support/polling.ts';
import { python } from '../support/python.ts';
import { COMMAND, encodeRequest, RawClient } from '../support/raw-client.ts';
import { expectRefusal, type NbdServer, startServer } from '../support/server.ts';
import {
  attachLoop,
  type FileSystemType,
  GiB,
  MiB,
  Mount,
  type ScratchFileSystem,
  scratchFileSystem,
} from '../support/storage.ts';
import { type TemporaryDirectory, temporaryDirectory } from '../support/temporary-directory.ts';

const WRITING_PEAK_MAX = 32 * MiB;
const READING_PEAK_MAX = 64 * MiB;
const DISK_READS_MAX = 1.05;

/** What a FLUSH or a second without requests has not swept after this time stays for ever. */
const SWEEP_DEADLINE = 10_000;

/** Twice what may be resident at the peak of a read. */
const SIZE = 128 * MiB;
/** Enough to leave something behind, for the runs in which nothing else is looked at. */
const BRIEF_SIZE = 4 * MiB;
const PAGE = 4096;
const CHUNK = 2 * MiB;

type Command = readonly [string, ...string[]];

interface Pattern {
  readonly name: string;
  readonly peakMax: number;
  /** Every byte of the image is read once, and nothing written. */
  readonly isWholeRead?: boolean;
  /** What a client does to the export, to all of it or briefly. */
  client(server: NbdServer, files: Files, isBrief: boolean): Promise<unknown>;
  /** The same to a file; nothing for patterns that only read. */
  model?(files: Files): Promise<unknown>;
}

interface Files {
  /** What the image has to be like. */
  readonly model: string;
  readonly copy: string;
}

function fioPattern(
  name: string,
  kind: 'reads' | 'writes',
  bytes: number,
  ...words: readonly string[]
): Omit<Pattern, 'isWholeRead'> {
  const isReadOnly = kind === 'reads';
  const job = (target: readonly string[], ioBytes: number): Command => [
    'fio',
    '--name=residency',
    `--size=${SIZE}`,
    `--io_size=${ioBytes}`,
    ...words,
    ...target,
  ];
  const pattern = {
    name,
    peakMax: isReadOnly ? READING_PEAK_MAX : WRITING_PEAK_MAX,
    client: (server: NbdServer, _files: Files, isBrief: boolean) =>
      run(job(['--ioengine=nbd', `--uri=${server.uri}`], isBrief ? Math.min(bytes, BRIEF_SIZE) : bytes)),
  };
  return isReadOnly
    ? pattern
    : {
        ...pattern,
        model: ({ model }: Files) => run(job(['--ioengine=psync', `--filename=${model}`], bytes)),
      };
}

function sequentialRead(blockSize: string, connections: number): Pattern {
  const share = SIZE / connections;
  return {
    ...fioPattern(
      `sequential read, ${blockSize}, ${connections} connection${connections === 1 ? '' : 's'}`,
      'reads',
      share,
      '--rw=read',
      `--bs=${blockSize}`,
      '--iodepth=16',
      `--numjobs=${connections}`,
      `--offset_increment=${share}`,
      `--size=${share}`,
    ),
    isWholeRead: true,
  };
}

/** Each block of a write tells its place; they must not overlap. */
const PLACED: readonly string[] = [
  '--verify=pattern',
  '--verify_pattern=%o',
  '--do_verify=0',
  '--verify_state_save=0',
];
/** Writes that overlap may arrive in any order, so that they all have to write the same. */
const alike = (byte: string): readonly string[] => [`--buffer_pattern=${byte}`, '--scramble_buffers=0'];

const NBDCOPY = ['nbdcopy', '--connections=4', '--threads=4'] as const;

const COPY_IN: Pattern = {
  name: 'nbdcopy in',
  peakMax: WRITING_PEAK_MAX,
  client: (server, { model }) => run([...NBDCOPY, model, server.uri]),
};

const COPY_OUT: Pattern = {
  name: 'nbdcopy out',
  peakMax: READING_PEAK_MAX,
  isWholeRead: true,
  client: async (server, { model, copy }) => {
    await run([...NBDCOPY, server.uri, copy]);
    await expectSameContent(model, copy);
  },
};

const RANDOM_READ = fioPattern(
  'random read, 4k, 4 connections',
  'reads',
  8 * MiB,
  '--rw=randread',
  '--bs=4k',
  '--iodepth=32',
  '--numjobs=4',
);

const UNALIGNED_RANDOM_WRITE = fioPattern(
  'unaligned random write, 5 KiB',
  'writes',
  8 * MiB,
  '--rw=randwrite',
  '--bs=5k',
  '--blockalign=512',
  '--iodepth=32',
  ...alike('0x5a'),
);

const UNALIGNED_SEQUENTIAL_WRITE = fioPattern(
  'unaligned sequential write, 64 KiB at +512',
  'writes',
  64 * MiB,
  '--rw=write',
  '--bs=64k',
  '--offset=512',
  `--size=${SIZE - MiB}`,
  '--iodepth=16',
  ...alike('0xa5'),
);

const MIXED = fioPattern(
  'mixed reads and writes, 16k, 4 connections',
  'writes',
  24 * MiB,
  '--rw=randrw',
  '--bs=16k',
  '--iodepth=16',
  '--numjobs=4',
  ...alike('0x3c'),
);

/** A pseudo-random walk that a server and a file can take alike. */
const RANGES = `
import random
def ranges(size, count):
    random.seed(4)
    for _ in range(count):
        length = random.choice([1, 511, 5000, 70001, 300007, 3 << 20])
        yield random.randrange(size - length), length
`;

const ZERO_AND_TRIM: Pattern = {
  name: 'zero and trim of unaligned ranges',
  peakMax: WRITING_PEAK_MAX,
  client: (server, _files, isBrief) =>
    python(
      server.uri,
      `${RANGES}
h = connect()
for index, (offset, length) in enumerate(ranges(h.get_size(), ${isBrief ? 60 : 600})):
    if index % 3 == 0:
        h.trim(length, offset)
    else:
        h.zero(length, offset, nbd.CMD_FLAG_NO_HOLE if index % 3 == 1 else 0)
`,
    ),
  model: ({ model }) =>
    python(
      model,
      `${RANGES}
with open(uri, 'r+b') as file:
    for offset, length in ranges(os.path.getsize(uri), 600):
        file.seek(offset)
        file.write(bytes(length))
`,
    ),
};

const PATTERNS: readonly Pattern[] = [
  COPY_IN,
  COPY_OUT,
  ...['4k', '64k', '256k', '1m'].flatMap((size) => [sequentialRead(size, 1), sequentialRead(size, 4)]),
  RANDOM_READ,
  fioPattern('sequential write, 4k', 'writes', 64 * MiB, '--rw=write', '--bs=4k', '--iodepth=32', ...PLACED),
  fioPattern('random write, 4k', 'writes', 64 * MiB, '--rw=randwrite', '--bs=4k', '--iodepth=32', ...PLACED),
  fioPattern(
    'random write, 4k, 4 connections',
    'writes',
    24 * MiB,
    '--rw=randwrite',
    '--bs=4k',
    '--iodepth=32',
    '--numjobs=4',
    ...alike('0x69'),
  ),
  fioPattern(
    'sequential write, 1m, 4 connections',
    'writes',
    SIZE / 4,
    '--rw=write',
    '--bs=1m',
    '--iodepth=16',
    '--numjobs=4',
    `--offset_increment=${SIZE / 4}`,
    `--size=${SIZE / 4}`,
    ...PLACED,
  ),
  UNALIGNED_RANDOM_WRITE,
  UNALIGNED_SEQUENTIAL_WRITE,
  MIXED,
  ZERO_AND_TRIM,
];

const SMALLER_SET: readonly Pattern[] = [
  COPY_IN,
  COPY_OUT,
  sequentialRead('64k', 4),
  UNALIGNED_RANDOM_WRITE,
  MIXED,
];

async function expectEmpty(what: string, probe: PageCacheProbe, offset = 0): Promise<void> {
  let left = 0;
  await eventually(
    `nothing is resident ${what}`,
    async () => {
      left = await probe.residentBytes(offset);
      return left === 0 ? true : undefined;
    },
    SWEEP_DEADLINE,
  ).catch(() => undefined);
  expect(left, `bytes resident ${what}`).toBe(0);
}

async function request(client: RawClient, type: number, length = 0): Promise<void> {
  await client.send(encodeRequest({ type, length }));
  const { error } = await client.receiveReply(type === COMMAND.read ? length : 0);
  expect(error).toBe(0);
}

/** A FLUSH must do without the sweep for idling: its client goes on reading one page until all else is gone. */
async function expectEmptyAfterFlush(client: RawClient, probe: PageCacheProbe): Promise<void> {
  await request(client, COMMAND.flush);
  let isDone = false;
  const reading = (async () => {
    while (!isDone) await request(client, COMMAND.read, PAGE);
  })();
  await expectEmpty('after a FLUSH, beside the chunk that is being read', probe, CHUNK).finally(() => {
    isDone = true;
  });
  await reading;
}

interface Target {
  /** The file or device that is served. */
  readonly image: string;
  /** The device whose reads are counted. */
  readonly device: string;
  readonly files: Files;
}

/** Serves the image to one pattern after the other; it has to be like the model before, and is afterwards. */
async function expectNothingLeft(
  { image, device, files }: Target,
  patterns: readonly Pattern[],
): Promise<void> {
  await using probe = await PageCacheProbe.open(image);
  for (const pattern of patterns) {
    await probe.evict();
    await using server = await startServer(['file', image, '--cache', 'none']);
    {
      await using idler = await RawClient.connect(server);
      await idler.handshake();
      const before = diskReadBytes(device);
      const peak = await probe.peakDuring(pattern.client(server, files, false));
      const diskReads = (diskReadBytes(device) - before) / SIZE;
      process.stdout.write(
        `${pattern.name}: peak ${(peak / MiB).toFixed(1)} MiB, disk reads ${diskReads.toFixed(3)}x\n`,
      );
      expect.soft(peak, `${pattern.name}: peak`).toBeLessThanOrEqual(pattern.peakMax);
      if (pattern.isWholeRead) {
        expect.soft(diskReads, `${pattern.name}: disk reads`).toBeLessThanOrEqual(DISK_READS_MAX);
      }
      await expectEmptyAfterFlush(idler, probe);
      await pattern.client(server, files, true);
      await expectEmpty(`${pattern.name}: with a client that idles`, probe);
    }
    await pattern.client(server, files, true);
    await expectEmpty(`${pattern.name}: after the last close`, probe);
    await server.stop();
    expect(await probe.residentBytes(), `${pattern.name}: after the end of the server`).toBe(0);
    await pattern.model?.(files);
    await expectSameContent(files.model, image);
  }
}

/** A file system with a full image on it, and the same image as a model. */
class Scene implements AsyncDisposable {
  readonly #directory: TemporaryDirectory;
  readonly #fileSystem: ScratchFileSystem;
  readonly #target: Target;

  private constructor(directory: TemporaryDirectory, fileSystem: ScratchFileSystem) {
    this.#directory = directory;
    this.#fileSystem = fileSystem;
    const files = { model: directory.file('model.img'), copy: directory.file('copy.img') };
    this.#target = { image: fileSystem.file('disk.img'), device: fileSystem.device, files };
  }

  static async create(type: FileSystemType): Promise<Scene> {
    const directory = await temporaryDirectory();
    // Direct, lest the page cache of the backing file answers the reads that are counted.
    const scene = new Scene(directory, await scratchFileSystem(type, GiB, '--direct-io=on'));
    const { image, files } = scene.#target;
    await createFullImage(files.model, SIZE);
    await run(['cp', '--reflink=never', '--sparse=never', files.model, image]);
    return scene;
  }

  async expectNothingLeft(patterns: readonly Pattern[]): Promise<void> {
    await expectNothingLeft(this.#target, patterns);
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#fileSystem[Symbol.asyncDispose]();
    await this.#directory[Symbol.asyncDispose]();
  }
}

describe.each(['ext4', 'xfs'] as const)(
  'on %s nothing stays in the page cache, little while it flows',
  (type) => {
    let scene: Scene;

    // One for all patterns: to make it takes as long as most of them.
    beforeAll(async () => {
      scene = await Scene.create(type);
    });

    afterAll(async () => {
      await scene[Symbol.asyncDispose]();
    });

    test.each(PATTERNS)('$name', async (pattern) => {
      await scene.expectNothingLeft([pattern]);
    });

    test('reading a file that is mostly holes', async () => {
      await using directory = await temporaryDirectory();
      await using fileSystem = await scratchFileSystem(type, GiB, '--direct-io=on');
      const files = { model: directory.file('model.img'), copy: directory.file('copy.img') };
      const image = fileSystem.file('disk.img');
      const data = [
        { offset: 0, length: MiB },
        { offset: 100 * MiB + 12_288, length: 5 * MiB },
      ];
      for (const path of [files.model, image]) await createImage(path, SIZE, data);
      await expectNothingLeft({ image, device: fileSystem.device, files }, [
        sequentialRead('64k', 1),
        COPY_OUT,
      ]);
      expect(await allocatedBytes(image), 'holes stay holes').toBeLessThan(8 * MiB);
    });
  },
);

test('on btrfs nothing stays in the page cache', async () => {
  await using scene = await Scene.create('btrfs');
  await scene.expectNothingLeft(SMALLER_SET);
});

test('of a block device nothing stays in the page cache', async () => {
  await using directory = await temporaryDirectory();
  const files = { model: directory.file('model.img'), copy: directory.file('copy.img') };
  const backing = directory.file('backing.img');
  await createFullImage(files.model, SIZE);
  await copyFile(files.model, backing);
  await using loop = await attachLoop(backing, '--direct-io=on');
  await expectNothingLeft({ image: loop.path, device: loop.path, files }, SMALLER_SET);
});

describe('--keep-resident', () => {
  /** Of each chunk of which something is resident the bytes that nobody has evicted. */
  async function residentChunks(probe: PageCacheProbe, size: number): Promise<number[]> {
    const chunks: number[] = [];
    for (let offset = 0; offset < size; offset += CHUNK) {
      const isEvicted = (await probe.residentBytes(offset, CHUNK)) === 0;
      chunks.push(isEvicted ? 0 : await probe.keptBytes(offset, CHUNK));
    }
    return chunks;
  }

  test('spares what another process has cached, and nothing else', async () => {
    await using directory = await temporaryDirectory();
    await using fileSystem = await scratchFileSystem('ext4', GiB / 2, '--direct-io=on');
    const size = 32 * MiB;
    const [image, copy] = [fileSystem.file('disk.img'), directory.file('copy.img')];
    await createFullImage(image, size);
    await using probe = await PageCacheProbe.open(image);
    await probe.evict();
    // Chunks 3 and 4, by a process of its own.
    const place = ['bs=2M', 'skip=3', 'count=2', 'status=none'] as const;
    await run(['dd', `if=${image}`, 'of=/dev/null', ...place]);
    const before = await residentChunks(probe, size);
    expect(before.slice(3, 5)).toEqual([CHUNK, CHUNK]);
    expect(before[12]).toBe(0);

    const args = ['file', image, '--cache', 'none'];
    await using server = await startServer([...args, '--keep-resident']);
    await run([...NBDCOPY, server.uri, copy]);
    // The kernel's read-ahead for dd may have gone on into the next chunk: that one was resident, too.
    const kept = before.map((bytes) => (bytes > 0 ? CHUNK : 0));
    await eventually('the rest has left', async () =>
      (await residentChunks(probe, size)).every((bytes, chunk) => bytes === 0 || kept[chunk] !== 0)
        ? true
        : undefined,
    );
    await run([...NBDCOPY, '--flush', copy, server.uri]);
    await server.stop();
    expect(await residentChunks(probe, size)).toEqual(kept);
    await expectSameContent(copy, image);

    // The same without the option: the other process's pages go.
    await using other = await startServer(args);
    await run([...NBDCOPY, other.uri, copy]);
    await other.stop();
    expect(await probe.residentBytes()).toBe(0);
  });
});

describe('--cache none is refused, with the reason in one line,', () => {
  test.each(['tmpfs', 'ramfs', 'hugetlbfs'])('on %s', async (type) => {
    await using directory = await temporaryDirectory();
    const mountPoint = directory.file('memory');
    await mkdir(mountPoint);
    await run(privileged('mount', '-t', type, type, mountPoint));
    await using _mount = new Mount(mountPoint);
    const image = `${mountPoint}/disk.img`;
    // Of huge pages there need not be any: an empty file is enough to be told apart.
    await run(privileged('truncate', `--size=${type === 'hugetlbfs' ? 0 : MiB}`, image));
    const message = await expectRefusal([
      'file',
      image,
      '--read-only',
      '--cache',
      'none',
      '--unix',
      directory.file('socket'),
    ]);
    expect(message).toContain(
      `--cache none cannot work for "${image}": it is on ${type}, which has no disk behind its cache`,
    );
  });
});
