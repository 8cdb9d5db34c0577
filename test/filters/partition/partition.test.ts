/** Which bytes of a disk are a partition, and what is said when a table cannot be believed. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { FilterError } from '../../../src/filters/filter-error.ts';
import { FakeLog } from '../../server/fake-log.ts';
import { BufferPlugin } from '../buffer-plugin.ts';
import { readFrom } from '../model.ts';
import { filtered } from '../stack.ts';
import { gptDisk, mbrDisk, putBootRecord } from './tables.ts';

const KIB = 1024;

/** Sectors of tables, at most, at both ends of a disk. */
const TABLE_SECTORS = 40;

/** Marks every sector that is empty with its offset, and opens the partition. */
async function partition(
  disk: Buffer,
  number: number,
  options: { sectorBytes?: number; minimum?: number; log?: FakeLog } = {},
): Promise<{ readonly sector: number; readonly sectors: number }> {
  const { sectorBytes = 512, minimum = 1, log = new FakeLog() } = options;
  const marked = Buffer.from(disk);
  const end = marked.length - TABLE_SECTORS * sectorBytes;
  for (let at = TABLE_SECTORS * sectorBytes; at < end; at += sectorBytes) {
    if (marked.subarray(at, at + 8).every((byte) => byte === 0)) marked.writeBigUInt64LE(BigInt(at), at);
  }
  const inner = new BufferPlugin(marked, 0, { blockSize: { minimum, preferred: 4096 } });
  const plugin = await filtered(inner, [`partition:${number}`], { log });
  const handle = await plugin.open();
  const first = await readFrom(handle, 0, Math.max(8, minimum));
  await handle.close();
  await plugin.close();
  return { sector: Number(first.readBigUInt64LE(0)) / sectorBytes, sectors: plugin.info.size / sectorBytes };
}

function refusal(disk: Buffer, number = 1): Promise<string> {
  return filtered(new BufferPlugin(disk), [`partition:${number}`]).then(
    () => 'served',
    (error: unknown) => (error instanceof FilterError ? error.message : `bug: ${String(error)}`),
  );
}

describe('an MBR', () => {
  test.each([
    [1, 100, 50],
    [2, 150, 1],
    [4, 200, 300],
    [5, 1010, 90],
    [6, 1201, 2],
    [7, 1600, 400],
  ])('partition %i begins at sector %i and has %i', async (number, sector, sectors) => {
    expect(await partition(mbrDisk(), number)).toEqual({ sector, sectors });
  });

  test('names the partitions there are, the extended one not among them', async () => {
    const there = '1 (25K), 2 (512), 4 (150K), 5 (45K), 6 (1K), 7 (200K)';
    for (const number of [3, 8, 99]) {
      expect(await refusal(mbrDisk(), number)).toBe(
        `Filter "partition": there is no partition ${number}; there are ${there}`,
      );
    }
  });

  test('without a partition has none', async () => {
    const disk = Buffer.alloc(512 * 10);
    putBootRecord(disk, 0, []);
    expect(await refusal(disk)).toBe('Filter "partition": there is no partition 1; there are none');
  });

  test('a logical partition may be missing from a link of the chain', async () => {
    const disk = mbrDisk();
    disk.fill(0, 1200 * 512 + 446, 1200 * 512 + 462);
    expect(await partition(disk, 6)).toEqual({ sector: 1600, sectors: 400 });
  });

  test.each<[string, (disk: Buffer) => void, RegExp]>([
    ['leads in a circle', (disk) => disk.writeUInt32LE(0, 1500 * 512 + 446 + 16 + 8), /more than 100 links/],
    ['leads past the end', (disk) => disk.writeUInt32LE(5000, 1200 * 512 + 446 + 16 + 8), /past the end/],
    [
      'leads to something else',
      (disk) => disk.writeUInt32LE(201, 1200 * 512 + 446 + 16 + 8),
      /to something else/,
    ],
  ])('a chain that %s is damaged', async (_, damage, reason) => {
    const disk = mbrDisk();
    putBootRecord(disk, 1500, [
      { slot: 0, type: 0x83, start: 100, count: 400 },
      { slot: 1, type: 0x05, start: 200, count: 1 },
    ]);
    damage(disk);
    expect(await refusal(disk)).toMatch(reason);
    expect(await refusal(disk)).toMatch(/^Filter "partition": the partition table is damaged: [^\n]+$/);
  });

  test('a partition that ends past the end of the disk is refused', async () => {
    const disk = mbrDisk().subarray(0, 512 * 1999);
    expect(await refusal(disk, 7)).toBe(
      'Filter "partition": partition 7 ends at 1000K, past the end of the export, which has 1023488',
    );
    expect(await refusal(disk, 1)).toBe('served');
  });
});

describe.each([512, 4096])('a GPT with sectors of %i bytes', (sectorBytes) => {
  const disk = gptDisk(sectorBytes, 600, [
    { number: 1, first: 40, last: 49 },
    { number: 3, first: 60, last: 60 },
    { number: 128, first: 61, last: 500 },
  ]);

  test.each([
    [1, 40, 10],
    [3, 60, 1],
    [128, 61, 440],
  ])('partition %i begins at sector %i and has %i', async (number, sector, sectors) => {
    expect(await partition(disk, number, { sectorBytes })).toEqual({ sector, sectors });
  });

  test('names the partitions there are', async () => {
    expect(await refusal(disk, 2)).toMatch(
      /^Filter "partition": there is no partition 2; there are 1 \(.+\), 3 \(.+\), 128 \(.+\)$/,
    );
  });

  test('is believed by its copy where it is damaged, with a warning', async () => {
    const entries = 2 * sectorBytes;
    for (const position of [0, 8, 12, 16, 24, 72, 80, 84, 88]
      .map((at) => sectorBytes + at)
      .concat(entries, entries + 33)) {
      const damaged = Buffer.from(disk);
      damaged.writeUInt8((damaged[position] ?? 0) ^ 0x55, position);
      const log = new FakeLog();
      expect(await partition(damaged, 128, { sectorBytes, log }), `byte ${position}`).toEqual({
        sector: 61,
        sectors: 440,
      });
      expect(log.lines.map(({ level }) => level)).toEqual(['warn']);
    }
  });

  test('is damaged when its copy is, too', async () => {
    const damaged = Buffer.from(disk);
    damaged.fill(0, sectorBytes, sectorBytes + 8).fill(0, 599 * sectorBytes, 599 * sectorBytes + 8);
    expect(await refusal(damaged)).toBe(
      'Filter "partition": the partition table is damaged: neither its GPT nor the copy at the end is intact',
    );
  });

  test('does not count without the boot record that speaks of it', async () => {
    const wiped = Buffer.from(disk).fill(0, 0, 512);
    expect(await refusal(wiped)).toBe('Filter "partition": the export has no partition table (MBR or GPT)');
  });
});

test('is found where the export knows only blocks of 4096 bytes', async () => {
  const disk = gptDisk(512, 600, [{ number: 1, first: 40, last: 47 }]);
  expect(await partition(disk.subarray(0, 74 * 4096), 1, { minimum: 4096 })).toEqual({
    sector: 40,
    sectors: 8,
  });
  const odd = gptDisk(512, 600, [{ number: 1, first: 41, last: 48 }]);
  await expect(partition(odd, 1, { minimum: 4096 })).rejects.toThrow(
    'is not made of whole blocks of 4096 bytes',
  );
});

describe('whatever is on a disk', () => {
  const originals = [mbrDisk(), gptDisk(512, 600, [{ number: 1, first: 40, last: 49 }])];

  async function expectSane(disk: Buffer, number: number): Promise<void> {
    const inner = new BufferPlugin(disk);
    try {
      const plugin = await filtered(inner, [`partition:${number}`]);
      expect(plugin.info.size).toBeGreaterThan(0);
      expect(plugin.info.size).toBeLessThanOrEqual(disk.length);
      const handle = await plugin.open();
      await readFrom(handle, plugin.info.size - 1, 1);
      await handle.close();
    } catch (error) {
      expect(error).toBeInstanceOf(FilterError);
      expect((error as Error).message).toMatch(/^[^\n]+$/);
    }
    expect(inner.handleCount).toBe(0);
  }

  test('it is served from inside, or refused: any bytes', async () => {
    await fc.assert(
      fc.asyncProperty(
        fc.uint8Array({ maxLength: 4 * KIB }),
        fc.integer({ min: 1, max: 8 }),
        async (bytes, number) => {
          const disk = Buffer.from(bytes);
          if (disk.length >= 512) disk.writeUInt16LE(0xaa55, 510);
          await expectSane(disk, number);
        },
      ),
      { numRuns: 200 },
    );
  });

  test('it is served from inside, or refused: damaged tables', async () => {
    const damage = fc.array(fc.record({ at: fc.nat(3 * KIB), byte: fc.nat(255) }), { maxLength: 6 });
    await fc.assert(
      fc.asyncProperty(fc.nat(1), damage, fc.integer({ min: 1, max: 8 }), async (index, bytes, number) => {
        const disk = Buffer.from(originals[index] ?? '');
        for (const { at, byte } of bytes) {
          // The interesting part of a boot record is at its end, and chains begin at sector 1000.
          disk[at < 600 ? 440 + (at % 72) : at] = byte;
          if (index === 0) disk[512 * 1000 + 440 + (at % 72)] = byte;
        }
        await expectSane(disk, number);
      }),
      { numRuns: 300 },
    );
  });

  test('it is served from inside, or refused: a disk that was cut off', async () => {
    for (const original of originals) {
      for (let length = 0; length <= original.length; length += length < 1600 ? 7 : 4999) {
        await expectSane(original.subarray(0, length), 1);
      }
    }
  });
});
