/** How the decoders of partition tables look at a disk: from `offset` on, `length` bytes that are inside it. */
export type ReadRange = (offset: number, length: number) => Promise<Uint8Array>;

/** A partition, in bytes of the disk. */
export interface Partition {
  /** As Linux counts them: from 1, logical ones from 5. */
  readonly number: number;
  readonly offset: number;
  readonly length: number;
}

/** A table that cannot be believed. The message is the end of a sentence. */
export class DamagedTableError extends Error {
  override readonly name = 'DamagedTableError';
}
