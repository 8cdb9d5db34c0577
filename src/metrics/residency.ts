/** Where an export is resident: cells of equal size, each one question to its plugin, one after the other. */
import type { Residency } from './status.ts';

/** As many as can be told apart on a telephone. */
const CELL_COUNT = 128;

/** Cells are whole pages of the usual sizes. */
const CELL_BYTES_MIN = 64 * 1024;

/**
 * Asks one question at a time, so that at most one thread of the pool is busy with it. A question takes longer
 * the more is resident, some 10 ns for each page.
 */
export async function measureResidency(
  size: number,
  residentBytes: (offset: number, length: number) => Promise<number>,
): Promise<Residency> {
  const cellBytes = Math.max(1, Math.ceil(size / CELL_COUNT / CELL_BYTES_MIN)) * CELL_BYTES_MIN;
  const cells: number[] = [];
  let total = 0;
  for (let offset = 0; offset < size; offset += cellBytes) {
    const length = Math.min(cellBytes, size - offset);
    // A last page that is partly beyond the end counts as a whole one.
    const resident = Math.min(await residentBytes(offset, length), length);
    cells.push(resident / length);
    total += resident;
  }
  return { residentBytes: total, cellBytes, cells };
}
