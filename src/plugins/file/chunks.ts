/** Chunks: the 2 MiB-aligned pieces of a file in which reads are evicted. */

/** The largest folio of ext4 and XFS (PMD size on x86-64), and the unit of eviction. */
export const CHUNK_BYTES = 2 * 1024 * 1024;

/** The number of the chunk that holds a byte. */
export function chunkOf(offset: number): number {
  return Math.floor(offset / CHUNK_BYTES);
}

/** The number of the last chunk of a range; of the first byte's chunk when the range is empty. */
export function lastChunkOf(offset: number, length: number): number {
  return chunkOf(offset + Math.max(length, 1) - 1);
}
