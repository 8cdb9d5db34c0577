/** Large folios out of the way of small writes: what is split, when, and that the data stays what it is. */
import { randomBytes } from 'node:crypto';
import { readFileSync, writeFileSync, writeSync } from 'node:fs';
import { afterEach, describe, expect, test, vi } from 'vitest';
import { native } from '../../../src/native/binding.ts';
import { LargeFolios } from '../../../src/plugins/file/large-folios.ts';
import { run } from '../../support/command.ts';
import { PYTHON } from '../../support/python.ts';
import { evict, Files, KiB, MiB, residentPages } from './files.ts';

const CHUNK = 2 * MiB;
const EINVAL = 22;
const SLOW_MS = 0.02;
const QUICK_MS = 0.002;

/** Pages of a file that belong to folios of 128 KiB and more (Documentation/admin-guide/mm/pagemap.rst). */
const COUNT_LARGE = `
import mmap, os, struct, sys
COMPOUND_TAIL = 1 << 16
fd = os.open(sys.argv[1], os.O_RDONLY)
pages = os.fstat(fd).st_size // mmap.PAGESIZE
mapping = mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ)
for page in range(pages):
    mapping[page * mmap.PAGESIZE]
line = next(line for line in open('/proc/self/maps') if line.rstrip().endswith(sys.argv[1]))
first = int(line.split('-')[0], 16) // mmap.PAGESIZE
frames = os.open('/proc/self/pagemap', os.O_RDONLY)
flags = os.open('/proc/kpageflags', os.O_RDONLY)
def flags_of(page):
    entry, = struct.unpack('Q', os.pread(frames, 8, (first + page) * 8))
    return struct.unpack('Q', os.pread(flags, 8, (entry & ((1 << 55) - 1)) * 8))[0]
folios = []
for page in range(pages):
    if flags_of(page) & COMPOUND_TAIL:
        folios[-1] += 1
    else:
        folios.append(1)
print(sum(length for length in folios if length * mmap.PAGESIZE >= 128 * 1024))
`;

async function countLarge(path: string): Promise<number> {
  return Number(await run([PYTHON, '-c', COUNT_LARGE, path]));
}

/** A file whose pages were read in by the kernel's read-ahead. */
async function readIn(files: Files, size: number): Promise<{ fd: number; content: Buffer }> {
  const content = randomBytes(size);
  writeFileSync(files.path(), content);
  const fd = files.open('r+');
  await evict(fd);
  await run(['dd', `if=${files.path()}`, 'of=/dev/null', 'bs=1M', 'status=none']);
  return { fd, content };
}

function durability(): ConstructorParameters<typeof LargeFolios>[1] {
  return {
    changed: () => {},
    flush: async () => {},
    watch: async (_operation: string, call: () => Promise<unknown>) => {
      await call();
    },
    failed: (error: unknown) => error,
  } as ConstructorParameters<typeof LargeFolios>[1];
}

afterEach(() => {
  vi.restoreAllMocks();
});

describe('split_folios', () => {
  test('leaves no large folio of what is resident; nothing leaves the cache or changes', async () => {
    await using files = await Files.create();
    const { fd, content } = await readIn(files, 8 * MiB);
    const resident = await residentPages(fd);
    for (let offset = 0; offset < 8 * MiB; offset += CHUNK) {
      const result = await new Promise((done) => native.split_folios(fd, offset, CHUNK, done));
      expect(result).toBe(0);
    }
    expect(await countLarge(files.path())).toBe(0);
    expect(await residentPages(fd)).toBe(resident);
    expect(readFileSync(files.path()).equals(content)).toBe(true);
  });

  test('reads nothing in, also past the end of the file', async () => {
    await using files = await Files.create();
    writeFileSync(files.path(), randomBytes(3 * MiB));
    const fd = files.open('r+');
    await evict(fd);
    writeSync(fd, randomBytes(4096), 0, 4096, MiB);
    for (const offset of [0, CHUNK, 2 * CHUNK]) {
      expect(await new Promise((done) => native.split_folios(fd, offset, CHUNK, done))).toBe(0);
    }
    expect(await residentPages(fd)).toBe(1);
  });
});

describe('a small write', () => {
  test('waits for the folios of its chunk once, and others to the chunk with it', async () => {
    await using files = await Files.create();
    const { fd } = await readIn(files, 3 * CHUNK);
    const split = vi.spyOn(native, 'split_folios');
    const folios = new LargeFolios(fd, durability());
    expect(folios.areInTheWay(4096, 4096)).toBe(true);
    const first = folios.split(4096, 4096);
    expect(folios.areInTheWay(0, 512)).toBe(true);
    await Promise.all([first, folios.split(0, 512)]);
    expect(split.mock.calls.map(([, offset, length]) => [offset, length])).toEqual([[0, CHUNK]]);
    expect(folios.areInTheWay(4096, 4096)).toBe(false);
    // One that goes on into the next chunk waits for that, too.
    expect(folios.areInTheWay(CHUNK - 512, 1024)).toBe(true);
    await folios.split(CHUNK - 512, 1024);
    expect(split).toHaveBeenCalledTimes(2);
    expect(folios.areInTheWay(CHUNK - 512, 1024)).toBe(false);
  });

  test('waits for nothing where nothing is cached, and a long one never', async () => {
    await using files = await Files.create();
    const { fd } = await readIn(files, CHUNK);
    const folios = new LargeFolios(fd, durability());
    expect(folios.areInTheWay(0, 256 * KiB)).toBe(false);
    expect(folios.areInTheWay(0, 128 * KiB)).toBe(true);
    await evict(fd);
    expect(folios.areInTheWay(0, 4096)).toBe(false);
  });

  test('waits no more once the kernel has said that it splits nothing', async () => {
    await using files = await Files.create();
    const { fd } = await readIn(files, 2 * CHUNK);
    vi.spyOn(native, 'split_folios').mockImplementation((...values) => values[3](-EINVAL));
    const folios = new LargeFolios(fd, durability());
    await folios.split(0, 4096);
    expect(folios.areInTheWay(CHUNK, 4096)).toBe(false);
  });
});

describe('writes that are slow again', () => {
  async function splitOnce(files: Files): Promise<{ folios: LargeFolios; log: string[] }> {
    const { fd } = await readIn(files, CHUNK);
    const log: string[] = [];
    const [sync, split] = [native.sync_file_range.bind(native), native.split_folios.bind(native)];
    vi.spyOn(native, 'sync_file_range').mockImplementation((...values) => {
      log.push('write back');
      sync(...values);
    });
    vi.spyOn(native, 'split_folios').mockImplementation((...values) => {
      log.push('split');
      split(...values);
    });
    const folios = new LargeFolios(fd, durability());
    await folios.split(0, 4096);
    expect(log.splice(0)).toEqual(['split']);
    return { folios, log };
  }

  test('two in a row have the chunk written back and split again; a single one does not', async () => {
    await using files = await Files.create();
    const { folios, log } = await splitOnce(files);
    for (const milliseconds of [SLOW_MS, QUICK_MS, SLOW_MS, QUICK_MS])
      folios.observe(0, 4096, milliseconds, 1);
    expect(log).toEqual([]);
    folios.observe(0, 4096, SLOW_MS, 2);
    folios.observe(4096, 4096, SLOW_MS, 3);
    expect(folios.areInTheWay(0, 4096)).toBe(true);
    await folios.split(0, 4096);
    expect(log).toEqual(['write back', 'split']);
  });

  test('are waited for before the descriptor may be closed', async () => {
    await using files = await Files.create();
    const { folios, log } = await splitOnce(files);
    folios.observe(0, 4096, SLOW_MS, 1);
    folios.observe(0, 4096, SLOW_MS, 2);
    expect(log).toEqual(['write back']);
    await folios.settled();
    expect(log).toEqual(['write back', 'split']);
    expect(folios.areInTheWay(0, 4096)).toBe(false);
  });

  test('longer writes tell nothing', async () => {
    await using files = await Files.create();
    const { folios, log } = await splitOnce(files);
    for (let count = 0; count < 10; count += 1) folios.observe(0, 64 * KiB, SLOW_MS, count);
    expect(log).toEqual([]);
  });

  test('they are left alone for a second, and for twice as long each time that splitting did not help', async () => {
    await using files = await Files.create();
    const { folios, log } = await splitOnce(files);
    const splitsAt: number[] = [];
    for (let second = 1; second <= 40; second += 1) {
      for (let write = 0; write < 4; write += 1) folios.observe(0, 4096, SLOW_MS, second * 1000 + write);
      await folios.split(0, 4096);
      if (log.splice(0).length > 0) splitsAt.push(second);
    }
    const pauses = splitsAt.slice(1).map((second, index) => second - (splitsAt[index] ?? 0));
    expect(pauses[0]).toBeLessThanOrEqual(3);
    expect(pauses).toEqual([...pauses].sort((one, other) => one - other));
    expect(pauses.at(-1)).toBeGreaterThanOrEqual(8);
  });
});
