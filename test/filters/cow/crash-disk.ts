/**
 * A disk with a volatile cache under an overlay: what was flushed stays, and of every sector that was written since,
 * a crash keeps some state it had meanwhile.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Extent, Handle, Plugin, PluginInfo } from '../../../src/plugins/plugin.ts';
import { INFO } from '../../server/fake-plugin.ts';

const SECTOR_BYTES = 512;

interface Change {
  readonly offset: number;
  readonly bytes: Buffer;
}

export class CrashDisk implements Plugin {
  readonly info: PluginInfo;
  /** What whoever reads it sees. */
  readonly #current: Buffer;
  readonly #durable: Buffer;
  #unflushed: Change[] = [];

  constructor(bytes: Buffer) {
    this.info = { ...INFO, size: bytes.length };
    this.#current = Buffer.from(bytes);
    this.#durable = Buffer.from(bytes);
  }

  /** The disk after the power failed now; `random` decides what was lucky. */
  crash(random: (limit: number) => number): CrashDisk {
    const bytes = Buffer.from(this.#durable);
    for (const change of this.#unflushed) {
      for (let at = 0; at < change.bytes.length; at += SECTOR_BYTES) {
        if (random(2) === 0) change.bytes.copy(bytes, change.offset + at, at, at + SECTOR_BYTES);
      }
    }
    return new CrashDisk(bytes);
  }

  open(): Handle {
    const change = async (offset: number, bytes: Buffer): Promise<void> => {
      bytes.copy(this.#current, offset);
      this.#unflushed.push({ offset, bytes });
    };
    return {
      read: async (buffer, start, length, offset) => {
        buffer.set(this.#current.subarray(offset, offset + length), start);
      },
      write: (buffer, start, length, offset) =>
        change(offset, Buffer.from(buffer.subarray(start, start + length))),
      trim: (offset, length) => change(offset, Buffer.alloc(length)),
      zero: (offset, length) => change(offset, Buffer.alloc(length)),
      flush: async () => {
        // What is written while a flush is under way need not be covered by it.
        const flushed = this.#unflushed.slice();
        for (let turn = 0; turn < 3; turn += 1) await nextTurn();
        for (const { offset, bytes } of flushed) bytes.copy(this.#durable, offset);
        this.#unflushed = this.#unflushed.slice(flushed.length);
      },
      cache: () => {},
      extents: async (_offset, length): Promise<readonly Extent[]> => [
        { length, isHole: false, isZero: false },
      ],
      close: () => {},
    };
  }

  async close(): Promise<void> {}
}
