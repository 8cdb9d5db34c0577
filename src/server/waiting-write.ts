/** What the kernel had no room for: the rest of a write, or of a header and the part of a file, or of memory, behind it. */
import type { LentMemory } from '../plugins/plugin.ts';
import type { FilePart } from './file-part.ts';

export interface WaitingWrite {
  readonly bytes: Uint8Array;
  position: number;
  readonly taken: (() => void) | undefined;
}

/** What is left of a header and the file behind it. */
export interface WaitingFile {
  readonly header: Uint8Array;
  readonly part: FilePart;
  /** Bytes of both together. */
  position: number;
  /** The rest of the part is being read. */
  isReading: boolean;
}

export function isWhole({ header, part, position }: WaitingFile): boolean {
  return position === header.length + part.length;
}

/** How much of the file is gone, without the header. */
export function skippedBytes({ header, position }: WaitingFile): number {
  return Math.max(position - header.length, 0);
}

/** What is left of a header, and a file whose rest is in memory. */
export function bytesOf({ header, position, part }: WaitingFile, rest: Uint8Array): WaitingWrite[] {
  const file = { bytes: rest, position: 0, taken: () => part.sent() };
  return position < header.length ? [{ bytes: header, position, taken: undefined }, file] : [file];
}

/** What waits of a file: with its first byte gone perhaps a copy, for which nothing can go wrong any more. */
export function partsOf(file: WaitingFile, isWanted: boolean): (WaitingWrite | WaitingFile)[] {
  const rest = file.position > 0 && isWanted ? file.part.copyRest(skippedBytes(file)) : undefined;
  return rest === undefined ? [file] : bytesOf(file, rest);
}

/** What is left of a header, which may be reused, and of memory behind it, with `position` bytes of both together gone. */
export function restOf(
  header: Uint8Array,
  { arrays, ranges }: LentMemory,
  position: number,
  taken: () => void,
): WaitingWrite[] {
  const parts = arrays.map((array, index) => {
    const start = ranges[2 * index] ?? 0;
    return array.subarray(start, start + (ranges[2 * index + 1] ?? 0));
  });
  const rest: WaitingWrite[] = [];
  let gone = position;
  for (const bytes of [header.slice(), ...parts]) {
    const skipped = Math.min(gone, bytes.length);
    gone -= skipped;
    if (skipped < bytes.length) {
      rest.push({ bytes, position: skipped, taken: undefined });
    }
  }
  const last = rest.pop();
  if (last === undefined) {
    throw new Error('Bug: nothing is left of what waits');
  }
  return [...rest, { ...last, taken }];
}
