/** Seeded mutation of byte strings, with the numbers in mind that this protocol's fields hold. */
import { join, u16, u32, u64, utf8 } from '../protocol/bytes.ts';

export type RandomNumbers = (limit: number) => number;

/** Longer inputs only make a run slower: no state of the session is deeper than a few messages. */
const INPUT_BYTES_MAX = 16 * 1024;

const INTERESTING: readonly Uint8Array[] = [
  ...[0, 1, 2, 3, 5, 6, 7, 8, 9, 10, 11, 0x20, 0x7fff, 0x8000, 0xffff].map(u16),
  ...[
    0, 1, 4096, 4097, 0x0003ffff, 0x00040001, 0x02000000, 0x02000001, 0x7fffffff, 0xfffff000, 0xffffffff,
  ].map(u32),
  ...[0n, 0x00fffff0n, 2n ** 32n, 2n ** 53n - 1n, 2n ** 53n, 2n ** 63n, 2n ** 64n - 512n, 2n ** 64n - 1n].map(
    u64,
  ),
  utf8('IHAVEOPT'),
  u32(0x25609513),
  u32(0x21e41c71),
];

/** `bytes` changed in one to six places; `other` gives the pieces that are spliced in. */
export function mutate(bytes: Uint8Array, other: Uint8Array, random: RandomNumbers): Uint8Array {
  let mutated = bytes;
  for (let count = 1 + random(6); count > 0; count -= 1) mutated = mutateOnce(mutated, other, random);
  return mutated.subarray(0, INPUT_BYTES_MAX);
}

function mutateOnce(bytes: Uint8Array, other: Uint8Array, random: RandomNumbers): Uint8Array {
  const at = random(bytes.length + 1);
  const before = bytes.subarray(0, at);
  const length = 1 + random(2 ** random(9));
  switch (random(9)) {
    case 0: {
      // One bit.
      const changed = bytes.slice();
      const index = Math.min(at, bytes.length - 1);
      if (index >= 0) changed[index] = (changed[index] ?? 0) ^ (1 << random(8));
      return changed;
    }
    case 1: {
      const changed = bytes.slice();
      if (at < bytes.length) changed[at] = random(256);
      return changed;
    }
    case 2:
    case 3: {
      // A field gets a value at the edge of something.
      const value = INTERESTING[random(INTERESTING.length)] ?? bytes;
      return join(before, value, bytes.subarray(at + value.length));
    }
    case 4:
      return join(before, bytes.subarray(at + length));
    case 5:
      return join(
        before,
        Uint8Array.from({ length: Math.min(length, 64) }, () => random(256)),
        bytes.subarray(at),
      );
    case 6: {
      // A piece of its own again: a message twice.
      const from = random(bytes.length + 1);
      return join(before, bytes.subarray(from, from + length), bytes.subarray(at));
    }
    case 7: {
      const from = random(other.length + 1);
      return join(before, other.subarray(from, from + length), bytes.subarray(at));
    }
    default:
      return random(4) === 0 ? before : join(before, other.subarray(random(other.length + 1)));
  }
}
