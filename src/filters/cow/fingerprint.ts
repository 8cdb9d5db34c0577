/**
 * Tells one base from another, and mostly from itself after a change: the SHA-256 of its size, its first MiB (the
 * partition table and the superblock of a first partition), its last 64 KiB (a GPT's copy) and 62 pages between.
 * A change that none of these has seen goes unnoticed: reading all of a base at every start would take minutes.
 */
import { createHash } from 'node:crypto';
import type { Plugin } from '../../plugins/plugin.ts';
import { readAligned } from '../read-aligned.ts';

const FIRST_BYTES = 1024 * 1024;
const LAST_BYTES = 64 * 1024;
const SAMPLE_BYTES = 4096;
const SAMPLE_COUNT = 62;

export async function fingerprintOf(base: Plugin): Promise<Buffer> {
  const { size } = base.info;
  const hash = createHash('sha256').update(`${size}\n`);
  const handle = await base.open();
  try {
    for (const [offset, length] of sampleRanges(size)) {
      hash.update(await readAligned(handle, base.info, offset, length));
    }
  } finally {
    await handle.close();
  }
  return hash.digest();
}

/** Offsets and lengths in bytes, all inside the base and above zero; small bases have some bytes twice. */
function sampleRanges(size: number): (readonly [number, number])[] {
  const samples = Array.from({ length: SAMPLE_COUNT }, (_, index) => {
    const offset = Math.floor(((index + 1) * (size / (SAMPLE_COUNT + 1))) / SAMPLE_BYTES) * SAMPLE_BYTES;
    return [offset, Math.min(SAMPLE_BYTES, size - offset)] as const;
  });
  const last = Math.max(0, size - LAST_BYTES);
  return [[0, Math.min(FIRST_BYTES, size)] as const, ...samples, [last, size - last] as const].filter(
    ([, length]) => length > 0,
  );
}
