import fc from 'fast-check';
import { expect, test } from 'vitest';
import { Input } from '../../src/protocol/input.ts';
import { pattern, toHex } from './bytes.ts';
import { split } from './session-driver.ts';

function gathered(input: Input, count: number): string {
  return toHex(input.gathered.subarray(input.gatheredAt, input.gatheredAt + count));
}

test('input gathers a header that lies whole in the array without copying it', () => {
  const input = new Input(28);
  const bytes = pattern(40);
  input.receive(bytes, 30);
  expect(input.skip(5)).toBe(5);
  expect(input.gather(10)).toBe(true);
  expect(input.gathered).toBe(bytes);
  expect(input.gatheredAt).toBe(5);
  expect(input.position).toBe(15);
  expect(input.available).toBe(15);
});

test('input counts only the first `length` bytes of a larger array', () => {
  const input = new Input(28);
  input.receive(pattern(100), 7);
  expect(input.available).toBe(7);
  expect(input.gather(8)).toBe(false);
  expect(input.available).toBe(0);
});

test('input gathers a header byte by byte and leaves what is behind', () => {
  const input = new Input(28);
  const bytes = pattern(29);
  for (let index = 0; index < 27; index += 1) {
    input.receive(bytes.subarray(index, index + 1), 1);
    expect(input.gather(28)).toBe(false);
  }
  input.receive(bytes.subarray(27), 2);
  expect(input.gather(28)).toBe(true);
  expect(gathered(input, 28)).toBe(toHex(bytes.subarray(0, 28)));
  expect(input.available).toBe(1);
});

test('input shows the beginning of a header that is not whole', () => {
  const input = new Input(28);
  expect(input.gather(28)).toBe(false);
  expect(input.carried).toBe(0);
  const bytes = pattern(9);
  input.receive(bytes.subarray(0, 5), 5);
  expect(input.gather(28)).toBe(false);
  expect(input.carried).toBe(5);
  input.receive(bytes.subarray(5), 4);
  expect(input.gather(28)).toBe(false);
  expect(toHex(input.carry.subarray(0, input.carried))).toBe(toHex(bytes));
});

test('input keeps the beginning of a header when the array of before is overwritten', () => {
  const input = new Input(28);
  const buffer = pattern(10);
  input.receive(buffer, 10);
  expect(input.gather(16)).toBe(false);
  buffer.set(pattern(20).subarray(10), 0);
  input.receive(buffer, 10);
  expect(input.gather(16)).toBe(true);
  expect(gathered(input, 16)).toBe(toHex(pattern(16)));
});

test('input moves and drops no more than there is', () => {
  const input = new Input(28);
  input.receive(pattern(10), 10);
  const target = new Uint8Array(8);
  expect(input.copyInto(target, 2, 4)).toBe(4);
  expect(toHex(target)).toBe('0000000102030000');
  expect(input.skip(100)).toBe(6);
  expect(input.skip(100)).toBe(0);
  expect(input.copyInto(target, 0, 8)).toBe(0);
});

type Take = { readonly kind: 'gather' | 'copy' | 'skip'; readonly count: number };

test('input yields the same bytes for any split, as a queue of bytes would', () => {
  const take = fc.record({
    kind: fc.constantFrom('gather', 'copy', 'skip'),
    count: fc.nat(28),
  }) satisfies fc.Arbitrary<Take>;
  fc.assert(
    fc.property(fc.array(take), fc.array(fc.nat(400), { maxLength: 20 }), (takes, cuts) => {
      const total = takes.reduce((sum, { count }) => sum + count, 0);
      const bytes = pattern(total);
      const chunks = split(bytes, cuts);
      const input = new Input(28);
      const refill = (): void => {
        const chunk = chunks.shift();
        if (chunk === undefined) throw new Error('The input wants more bytes than were asked for');
        input.receive(chunk.slice(), chunk.length);
      };
      let position = 0;
      for (const { kind, count } of takes) {
        const expected = toHex(bytes.subarray(position, position + count));
        position += count;
        if (kind === 'gather') {
          while (!input.gather(count)) refill();
          expect(gathered(input, count)).toBe(expected);
          continue;
        }
        const target = new Uint8Array(count);
        for (let done = 0; done < count; ) {
          if (input.available === 0) refill();
          done += kind === 'copy' ? input.copyInto(target, done, count - done) : input.skip(count - done);
        }
        if (kind === 'copy') expect(toHex(target)).toBe(expected);
      }
    }),
  );
});
