/** Slots of huge pages: none is given out twice, pages in use are filled first, and a page comes back whole. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { HUGE_PAGE_BYTES, HugePageSlots, isSlotLength } from '../../src/server/huge-page-slots.ts';

const KiB = 1024;
const LENGTHS = [256 * KiB, 512 * KiB, 1024 * KiB, 2048 * KiB];

test('a slot length is a power of two from 256 KiB to 2 MiB', () => {
  const others = LENGTHS.flatMap((length) => [length - 1, length + 1, length + 64]);
  expect(LENGTHS.filter(isSlotLength)).toEqual(LENGTHS);
  expect([...others, 0, 128 * KiB, 4096 * KiB, 384 * KiB].filter(isSlotLength)).toEqual([]);
});

test('whatever is taken and given back: no two in use overlap, no page is taken while one has room, all come back', () => {
  const step = fc.record({ length: fc.constantFrom(...LENGTHS), give: fc.boolean(), which: fc.nat(1000) });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
      const slots = new HugePageSlots();
      const out: Uint8Array[] = [];
      let pageCount = 0;
      const newPage = (): Uint8Array => {
        pageCount += 1;
        return new Uint8Array(HUGE_PAGE_BYTES);
      };
      const give = (slot: Uint8Array): void => {
        out.splice(out.indexOf(slot), 1);
        const page = slots.release(slot);
        const isLast = out.every(({ buffer }) => buffer !== slot.buffer);
        expect(page?.buffer).toBe(isLast ? slot.buffer : undefined);
        if (isLast) pageCount -= 1;
      };
      for (const { length, give: isGiving, which } of steps) {
        const slot = out[which % Math.max(out.length, 1)];
        if (isGiving && slot !== undefined) {
          give(slot);
        } else {
          const pagesOfLength = new Set(
            out.filter((each) => each.length === length).map(({ buffer }) => buffer),
          );
          const used = out.filter((each) => each.length === length).length * length;
          const hasRoom = used < pagesOfLength.size * HUGE_PAGE_BYTES;
          const before = pageCount;
          const taken = slots.acquire(length, newPage);
          expect(taken.length).toBe(length);
          expect(pageCount - before).toBe(hasRoom ? 0 : 1);
          for (const other of out) {
            const isApart =
              other.buffer !== taken.buffer ||
              other.byteOffset + other.length <= taken.byteOffset ||
              taken.byteOffset + length <= other.byteOffset;
            expect(isApart).toBe(true);
          }
          out.push(taken);
        }
      }
      for (const slot of [...out]) give(slot);
      expect(pageCount).toBe(0);
    }),
  );
});

test('a slot that is not in use is a bug of the caller', () => {
  const slots = new HugePageSlots();
  const slot = slots.acquire(HUGE_PAGE_BYTES, () => new Uint8Array(HUGE_PAGE_BYTES));
  slots.release(slot);
  expect(() => slots.release(slot)).toThrow(/Bug/);
});
