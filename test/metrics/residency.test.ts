import { expect, test } from 'vitest';
import { measureResidency } from '../../src/metrics/residency.ts';

const KiB = 1024;
const GiB = 1024 ** 3;

test.each([0, 1, 64 * KiB, 64 * KiB + 1, 8 * 1024 * KiB, 10 * GiB + 513, Number.MAX_SAFE_INTEGER])(
  'the cells cover %d bytes, one question each, one after the other',
  async (size) => {
    let asked = 0;
    let isAsking = false;
    const residency = await measureResidency(size, async (offset, length) => {
      expect(isAsking).toBe(false);
      expect(offset).toBe(asked);
      isAsking = true;
      await Promise.resolve();
      isAsking = false;
      asked += length;
      return 0;
    });
    expect(asked).toBe(size);
    expect(residency.cells.length).toBe(Math.ceil(size / residency.cellBytes));
    expect(residency.cells.length).toBeLessThanOrEqual(128);
    expect(residency.residentBytes).toBe(0);
  },
);

test('a last page that is partly beyond the end counts as what is inside', async () => {
  const residency = await measureResidency(64 * KiB + 100, async (offset) => (offset === 0 ? 4096 : 4096));
  expect(residency).toEqual({ residentBytes: 4196, cellBytes: 64 * KiB, cells: [1 / 16, 1] });
});
