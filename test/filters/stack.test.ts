/** Every filter, and stacks of them, against a plain buffer. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { noise } from '../support/image.ts';
import { BufferPlugin } from './buffer-plugin.ts';
import { batches, expectModel } from './model.ts';
import { filtered } from './stack.ts';

const SIZE = 300_007;

interface Stack {
  readonly filters: readonly string[];
  /** Where in the innermost plugin the export begins, and how long it is. */
  readonly offset: number;
  readonly length: number;
  readonly runs: number;
}

const whole = { offset: 0, length: SIZE };

const STACKS: readonly Stack[] = [
  { filters: [], ...whole, runs: 20 },
  { filters: ['cow'], ...whole, runs: 40 },
  { filters: ['offset:12345,range=70001'], offset: 12_345, length: 70_001, runs: 20 },
  { filters: ['offset:offset=77'], offset: 77, length: SIZE - 77, runs: 10 },
  { filters: ['readahead:window=4K,memory=32K'], ...whole, runs: 40 },
  { filters: ['delay:flush=1ms'], ...whole, runs: 10 },
  { filters: ['rate:100G,connection-rate=100G'], ...whole, runs: 10 },
  { filters: ['error:0%'], ...whole, runs: 10 },
  { filters: ['log'], ...whole, runs: 10 },
  { filters: ['offset:1001,range=150K', 'cow', 'offset:99'], offset: 1100, length: 150 * 1024, runs: 20 },
  { filters: ['readahead:window=8K', 'log', 'cow', 'rate:100G', 'cow'], ...whole, runs: 20 },
];

describe.each(STACKS)('$filters', ({ filters, offset, length, runs }) => {
  test('reads as a plain buffer would', async () => {
    await fc.assert(
      fc.asyncProperty(batches, fc.nat(2 ** 31), async (all, seed) => {
        const contents = noise(SIZE, 1);
        // Runs of zeros, so that extents have something to say.
        contents.fill(0, 1000, 80_000).fill(0, 200_000, 203_000);
        const before = Buffer.from(contents);
        const inner = new BufferPlugin(contents, seed, { isReadOnly: filters.includes('cow') });
        const plugin = await filtered(inner, filters);
        const model = Buffer.from(before.subarray(offset, offset + length));
        try {
          await expectModel(plugin, model, all);
        } finally {
          await plugin.close();
        }
        expect(inner.closeCount).toBe(1);
        expect(inner.handleCount).toBe(0);
        if (inner.info.isReadOnly) {
          expect(inner.bytes.equals(before), 'the base is as it was').toBe(true);
        } else {
          model.copy(before, offset);
          expect(inner.bytes.equals(before), 'what is outside the range is as it was').toBe(true);
        }
      }),
      { numRuns: runs },
    );
  });
});

test('works in whole blocks where the innermost plugin knows no others', async () => {
  await fc.assert(
    fc.asyncProperty(batches, fc.nat(2 ** 31), async (all, seed) => {
      const contents = noise(512 * 300, 1);
      const blockSize = { minimum: 512, preferred: 4096 };
      const inner = new BufferPlugin(contents, seed, { isReadOnly: true, blockSize });
      const plugin = await filtered(inner, ['readahead:window=5000', 'offset:1K,range=100K', 'cow', 'log']);
      await expectModel(plugin, Buffer.from(contents.subarray(1024, 1024 * 101)), all);
      await plugin.close();
    }),
    { numRuns: 20 },
  );
});
