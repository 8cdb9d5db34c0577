/** Holes in long READs: where they are asked for, how they are sent, and that nothing is asked without need. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { BackendError } from '../../src/plugins/backend-error.ts';
import type { Extent } from '../../src/plugins/plugin.ts';
import type { LinuxErrno } from '../../src/protocol/errno.ts';
import type { ChunkForm } from '../../src/protocol/reply.ts';
import { emptyRequest, type Request } from '../../src/protocol/request.ts';
import { planRead, SparseReads } from '../../src/server/sparse-reads.ts';
import { type Chunk, decodeReplyChunks } from '../protocol/naive-client.ts';
import { CountingPool } from './counting-pool.ts';
import { FakeHandle } from './fake-plugin.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const SIZE = 64 * MiB;

/** A run of the disk: holes read as zeros, data as the low byte of its number, never zero. */
const dataAt = (offset: number): number => (offset % 251) + 1;

/** A disk with holes, whose handle remembers what it was asked. */
class SparseDisk extends FakeHandle {
  readonly questions: number[] = [];
  readonly readRanges: [offset: number, length: number][] = [];
  readonly #holes: readonly (readonly [start: number, end: number])[];

  constructor(holes: readonly (readonly [start: number, end: number])[]) {
    super('immediate');
    this.#holes = holes;
  }

  isHole(offset: number): boolean {
    return this.#holes.some(([start, end]) => offset >= start && offset < end);
  }

  override extents(offset: number, length: number): Extent[] {
    this.questions.push(offset);
    const found: Extent[] = [];
    const borders = [...new Set([...this.#holes.flat(), SIZE])].sort((a, b) => a - b);
    let position = offset;
    // As the file plugin: a hole, if there is one, and the run of data behind it, which may pass the range.
    for (const border of borders.filter((each) => each > offset)) {
      const isHole = this.isHole(position);
      found.push({ length: border - position, isHole, isZero: isHole });
      position = border;
      if (!isHole || position >= offset + length) break;
    }
    return found;
  }

  override async read(buffer: Uint8Array, start: number, length: number, offset: number): Promise<void> {
    this.readRanges.push([offset, length]);
    await nextTurn();
    for (let index = 0; index < length; index += 1) {
      buffer[start + index] = this.isHole(offset + index) ? 0 : dataAt(offset + index);
    }
  }
}

function requestOf(offset: number, length: number): Request {
  return { ...emptyRequest(), offset, offsetLow: offset, length, cookieLow: 5 };
}

class Rig {
  readonly pool = new CountingPool();
  readonly reads: SparseReads;

  constructor(disk: FakeHandle, form: ChunkForm = 'structured') {
    this.reads = new SparseReads(disk, this.pool, form);
  }

  async chunks(offset: number, length: number): Promise<Chunk[]> {
    const { buffer, length: replyBytes } = await this.reads.read(requestOf(offset, length));
    const chunks = decodeReplyChunks(Uint8Array.from(buffer.subarray(0, replyBytes)));
    this.pool.release(buffer);
    return chunks;
  }
}

/** What a client makes of the chunks: every byte from exactly one of them. */
function assemble(chunks: readonly Chunk[], offset: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  const isCovered = new Uint8Array(length);
  for (const chunk of chunks) {
    if (chunk.kind !== 'data' && chunk.kind !== 'hole') throw new Error(`A chunk of kind ${chunk.kind}`);
    const start = Number(chunk.offset) - offset;
    const count = chunk.kind === 'data' ? chunk.data.length : chunk.length;
    expect(start).toBeGreaterThanOrEqual(0);
    expect(start + count).toBeLessThanOrEqual(length);
    expect(isCovered.subarray(start, start + count).every((covered) => covered === 0)).toBe(true);
    isCovered.fill(1, start, start + count);
    if (chunk.kind === 'data') bytes.set(chunk.data, start);
  }
  expect(isCovered.every((covered) => covered === 1)).toBe(true);
  return bytes;
}

describe.each(['structured', 'extended'] as const)('a %s READ', (form) => {
  test('of a hole is one OFFSET_HOLE chunk, and nothing is read', async () => {
    const disk = new SparseDisk([[0, SIZE]]);
    const rig = new Rig(disk, form);
    expect(await rig.chunks(MiB, 32 * MiB)).toMatchObject([
      { kind: 'hole', offset: BigInt(MiB), length: 32 * MiB, isDone: true },
    ]);
    expect(disk.readRanges).toEqual([]);
    expect(rig.pool.outCount).toBe(0);
  });

  test('with holes at its begin, inside and at its end is data and holes, DONE on the last', async () => {
    const disk = new SparseDisk([
      [0, 256 * KiB],
      [512 * KiB, MiB],
      [2 * MiB, 3 * MiB],
    ]);
    const rig = new Rig(disk, form);
    const chunks = await rig.chunks(128 * KiB, 2 * MiB);
    expect(chunks.map(({ kind }) => kind)).toEqual(['hole', 'data', 'hole', 'data', 'hole']);
    const bytes = assemble(chunks, 128 * KiB, 2 * MiB);
    expect(
      bytes.every((byte, index) => byte === (disk.isHole(128 * KiB + index) ? 0 : dataAt(128 * KiB + index))),
    ).toBe(true);
    expect(disk.readRanges).toEqual([
      [256 * KiB, 256 * KiB],
      [MiB, MiB],
    ]);
    expect(rig.pool.outCount).toBe(0);
  });

  test('without holes is one OFFSET_DATA chunk', async () => {
    const chunks = await new Rig(new SparseDisk([]), form).chunks(512, 256 * KiB);
    expect(chunks).toMatchObject([{ kind: 'data', offset: 512n, isDone: true }]);
  });

  test('with more holes than there are questions gives data behind the last answer, all bytes right', async () => {
    const holes = Array.from(
      { length: 40 },
      (_, index) => [index * 256 * KiB, index * 256 * KiB + 128 * KiB] as const,
    );
    const disk = new SparseDisk(holes);
    const chunks = await new Rig(disk, form).chunks(0, 2 * MiB);
    expect(disk.questions.length).toBeLessThanOrEqual(4);
    const bytes = assemble(chunks, 0, 2 * MiB);
    expect(bytes.every((byte, index) => byte === (disk.isHole(index) ? 0 : dataAt(index)))).toBe(true);
  });
});

describe('asking', () => {
  test('is not done for a READ below 64 KiB', () => {
    const { reads } = new Rig(new SparseDisk([]));
    expect(reads.mayHaveHole(0, 64 * KiB - 1)).toBe(false);
    expect(reads.mayHaveHole(0, 64 * KiB)).toBe(true);
  });

  test('a file without holes is asked about once, however many READs it gets', async () => {
    const disk = new SparseDisk([]);
    const rig = new Rig(disk);
    await rig.chunks(0, 256 * KiB);
    for (let offset = 0; offset < SIZE; offset += 256 * KiB) {
      expect(rig.reads.mayHaveHole(offset, 256 * KiB)).toBe(false);
    }
    expect(disk.questions).toEqual([0]);
  });

  test('is done again outside the run of data that is known', async () => {
    const rig = new Rig(new SparseDisk([[8 * MiB, 9 * MiB]]));
    await rig.chunks(4 * MiB, MiB);
    expect(rig.reads.mayHaveHole(7 * MiB, MiB)).toBe(false);
    expect(rig.reads.mayHaveHole(7 * MiB, MiB + 1)).toBe(true);
    expect(rig.reads.mayHaveHole(4 * MiB - 1, MiB)).toBe(true);
    expect(rig.reads.mayHaveHole(8 * MiB, MiB)).toBe(true);
  });

  test('becomes rare after 16 answers without a hole in a row, until one has a hole', async () => {
    const holes = Array.from({ length: 64 }, (_, index) => [index * MiB, index * MiB + 4 * KiB] as const);
    const rig = new Rig(new SparseDisk([...holes, [50 * MiB, 51 * MiB]]));
    for (let count = 0; count < 16; count += 1) {
      expect(rig.reads.mayHaveHole(((7 * count) % 40) * MiB, 128 * KiB)).toBe(true);
      await rig.chunks(((7 * count) % 40) * MiB, 128 * KiB);
    }
    const asked = Array.from({ length: 64 }, (_, count) =>
      rig.reads.mayHaveHole((count % 40) * MiB, 128 * KiB),
    );
    expect(asked.filter(Boolean)).toHaveLength(4);
    await rig.chunks(50 * MiB, MiB);
    expect(rig.reads.mayHaveHole(0, 128 * KiB)).toBe(true);
  });

  test('is done again after `forget`: a TRIM may have made a hole of data', async () => {
    const rig = new Rig(new SparseDisk([]));
    await rig.chunks(0, MiB);
    expect(rig.reads.mayHaveHole(0, MiB)).toBe(false);
    rig.reads.forget();
    expect(rig.reads.mayHaveHole(0, MiB)).toBe(true);
  });
});

describe('a failure', () => {
  test('to find extents is no failure of the READ: everything counts as data', async () => {
    const disk = new SparseDisk([[0, SIZE]]);
    disk.extents = () => {
      throw new BackendError(5 as LinuxErrno, 'lseek', 0, 1);
    };
    expect(await new Rig(disk).chunks(0, MiB)).toMatchObject([{ kind: 'data', isDone: true }]);
  });

  test('of one part fails the READ once no other part writes into the buffer any more', async () => {
    const handle = new FakeHandle('controlled');
    handle.extents = () => [
      { length: MiB, isHole: false, isZero: false },
      { length: MiB, isHole: true, isZero: true },
      { length: MiB, isHole: false, isZero: false },
    ];
    const rig = new Rig(handle);
    const outcome = rig.reads.read(requestOf(0, 3 * MiB)).catch((error: unknown) => error);
    await nextTurn();
    expect(handle.pending).toHaveLength(2);
    const failure = new BackendError(5 as LinuxErrno, 'pread', 0, MiB);
    handle.pending[0]?.reject(failure);
    await nextTurn();
    expect(rig.pool.outCount).toBe(1);
    handle.pending[0]?.resolve();
    expect(await outcome).toBe(failure);
    expect(rig.pool.outCount).toBe(0);
  });

  test('by an exception gives the buffer back, too', async () => {
    const disk = new SparseDisk([]);
    const failure = new BackendError(5 as LinuxErrno, 'pread', 0, MiB);
    disk.read = () => {
      throw failure;
    };
    const rig = new Rig(disk);
    await expect(rig.reads.read(requestOf(0, MiB))).rejects.toBe(failure);
    expect(rig.pool.outCount).toBe(0);
  });
});

test('a READ of 32 MiB with holes needs no buffer of the class above', async () => {
  const disk = new SparseDisk(
    Array.from(
      { length: 3 },
      (_, index) => [(2 + 8 * index) * MiB, (2 + 8 * index) * MiB + 64 * KiB] as const,
    ),
  );
  const rig = new Rig(disk, 'extended');
  const { buffer } = await rig.reads.read(requestOf(0, 32 * MiB));
  expect(buffer.length).toBeLessThan(33 * MiB);
  rig.pool.release(buffer);
});

test('a plan covers the READ exactly once, its holes are holes, and its inner borders SHOULD be multiples of 512', () => {
  const extent = fc.record({
    length: fc.oneof(fc.integer({ min: 1, max: 4096 }), fc.integer({ min: 1, max: 300 * KiB })),
    isZero: fc.boolean(),
  });
  fc.assert(
    fc.property(
      fc.nat(2 ** 40),
      fc.integer({ min: 64 * KiB, max: 2 * MiB }),
      fc.array(extent, { maxLength: 12 }),
      (offset, length, runs) => {
        const extents = runs.map((run) => ({ ...run, isHole: run.isZero }));
        const parts = planRead(offset, length, extents);
        let position = offset;
        parts.forEach((part, index) => {
          expect(part.offset).toBe(position);
          expect(part.length).toBeGreaterThan(0);
          position += part.length;
          if (index < parts.length - 1) {
            expect(position % 512).toBe(0);
            expect(parts[index + 1]?.isHole).toBe(!part.isHole);
          }
          if (part.isHole) {
            expect(part.length).toBeGreaterThanOrEqual(64 * KiB);
            let start = offset;
            for (const { length: count, isZero } of extents) {
              const overlaps = start < part.offset + part.length && start + count > part.offset;
              if (overlaps) expect(isZero).toBe(true);
              start += count;
            }
            expect(start).toBeGreaterThanOrEqual(part.offset + part.length);
          }
        });
        expect(position).toBe(offset + length);
      },
    ),
    { numRuns: 500 },
  );
});
