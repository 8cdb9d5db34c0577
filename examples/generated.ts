/**
 * A device that computes what it contains: every 8 bytes are their own offset, big-endian. Whoever copies it can
 * tell from each piece where it belongs. (nbdkit's `pattern` has the same contents.)
 *
 *     nbd-serve plugin examples/generated.ts 1073741824
 */
import { defineExport } from 'nbd-serve';

const WORD_BYTES = 8;

export default ([size = '1073741824']: readonly string[]) =>
  defineExport({
    size: Number(size),
    description: 'every 8 bytes are their own offset',
    read(offset, length) {
      const start = Math.floor(offset / WORD_BYTES) * WORD_BYTES;
      const words = new DataView(
        new ArrayBuffer(Math.ceil((offset + length - start) / WORD_BYTES) * WORD_BYTES),
      );
      for (let position = 0; position < words.byteLength; position += WORD_BYTES) {
        // Two halves: several times as fast as setBigUint64 with a BigInt for each.
        words.setUint32(position, Math.floor((start + position) / 2 ** 32));
        words.setUint32(position + 4, (start + position) % 2 ** 32);
      }
      return new Uint8Array(words.buffer, offset - start, length);
    },
    // What is computed costs nothing to have again.
    cache: () => {},
  });
