/** What the kernel had no room for: the rest of a write, or of a header and the part of a file behind it. */
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
