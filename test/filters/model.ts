/** What any stack of filters must keep: it reads as a plain buffer does on which the same was done. */
import fc from 'fast-check';
import { expect } from 'vitest';
import type { Handle, Plugin } from '../../src/plugins/plugin.ts';
import { noise } from '../support/image.ts';

/** `at` and `span` are from 0 to 1, of the export and of what is left of it, so that a case shrinks well. */
interface Operation {
  readonly kind: 'read' | 'write' | 'zero' | 'trim' | 'flush' | 'cache' | 'extents';
  readonly handle: number;
  readonly at: number;
  readonly span: number;
  readonly seed: number;
  readonly isFua: boolean;
  readonly mayPunch: boolean;
}

const operation: fc.Arbitrary<Operation> = fc.record({
  kind: fc.constantFrom(
    'read',
    'read',
    'write',
    'write',
    'write',
    'zero',
    'trim',
    'flush',
    'cache',
    'extents',
  ),
  handle: fc.nat(1),
  at: fc.double({ min: 0, max: 1, noNaN: true }),
  span: fc.oneof(fc.double({ min: 0, max: 1, noNaN: true }), fc.double({ min: 0, max: 0.05, noNaN: true })),
  seed: fc.nat(1000),
  isFua: fc.boolean(),
  mayPunch: fc.boolean(),
});

/** Batches: what is in one of them is under way at the same time, and does not overlap. */
export const batches = fc.array(fc.array(operation, { minLength: 1, maxLength: 6 }), { maxLength: 12 });

export type Batches = readonly (readonly Operation[])[];

interface Range {
  readonly offset: number;
  readonly length: number;
}

function rangeOf({ at, span }: Operation, size: number, unit: number): Range {
  const units = Math.floor(size / unit);
  const first = Math.min(Math.floor(at * units), units - 1);
  const count = Math.max(1, Math.floor(span * (units - first)));
  return { offset: first * unit, length: count * unit };
}

/** Reads as the server does: at once if that is possible. */
export async function readFrom(handle: Handle, offset: number, length: number): Promise<Buffer> {
  const buffer = Buffer.alloc(length + 16, 0xee);
  if (handle.readNow?.(buffer, 8, length, offset) !== true) await handle.read(buffer, 8, length, offset);
  expect(
    buffer.subarray(0, 8).equals(Buffer.alloc(8, 0xee)),
    'nothing in front of the buffer is touched',
  ).toBe(true);
  expect(buffer.subarray(length + 8).equals(Buffer.alloc(8, 0xee)), 'nothing behind it').toBe(true);
  return buffer.subarray(8, length + 8);
}

/** Writes as the server does: the data is overwritten as soon as the contract allows it. */
export async function writeTo(handle: Handle, offset: number, data: Buffer, isFua: boolean): Promise<void> {
  const buffer = Buffer.concat([Buffer.alloc(3), data]);
  const now = isFua ? false : (handle.writeNow?.(buffer, 3, data.length, offset) ?? false);
  if (now !== false) buffer.fill(0xdd);
  await (now === false ? handle.write(buffer, 3, data.length, offset, isFua) : now);
  buffer.fill(0xdd);
}

async function apply(
  handle: Handle,
  step: Operation,
  model: Buffer,
  { offset, length }: Range,
): Promise<void> {
  const { kind, seed, isFua, mayPunch } = step;
  switch (kind) {
    case 'read': {
      const expected = Buffer.from(model.subarray(offset, offset + length));
      expectEqual(await readFrom(handle, offset, length), expected, offset);
      return;
    }
    case 'write': {
      const data = noise(length, seed);
      await writeTo(handle, offset, data, isFua);
      data.copy(model, offset);
      return;
    }
    case 'zero':
      await handle.zero(offset, length, { mayPunch, isFast: false }, isFua);
      model.fill(0, offset, offset + length);
      return;
    case 'trim': {
      await handle.trim(offset, length, isFua);
      const found = await readFrom(handle, offset, length);
      const before = model.subarray(offset, offset + length);
      const wrong = found.findIndex((byte, index) => byte !== 0 && byte !== before[index]);
      expect(wrong, 'trimmed bytes are zero, or as they were').toBe(-1);
      found.copy(model, offset);
      return;
    }
    case 'flush':
      return handle.flush();
    case 'cache':
      return handle.cache(offset, length);
    case 'extents': {
      let position = offset;
      const extents = await handle.extents(offset, length, isFua);
      expect(extents.length).toBeGreaterThan(0);
      for (const extent of extents) {
        expect(extent.length).toBeGreaterThan(0);
        // Outside the range others may write meanwhile.
        const end = Math.min(position + extent.length, offset + length);
        if (extent.isZero) {
          expect(model.subarray(position, Math.max(position, end)).every((byte) => byte === 0)).toBe(true);
        }
        position += extent.length;
      }
      expect(position).toBeLessThanOrEqual(model.length);
    }
  }
}

function expectEqual(found: Buffer, expected: Buffer, offset: number): void {
  if (found.equals(expected)) return;
  const index = expected.findIndex((byte, at) => byte !== found[at]);
  throw new Error(`byte ${offset + index} is ${found[index]}, not ${expected[index]}`);
}

/** Does it all through two handles of `plugin`, which `model` is the contents of, and closes the handles. */
export async function expectModel(plugin: Plugin, model: Buffer, all: Batches): Promise<void> {
  const handles = [await plugin.open(), await plugin.open()];
  const unit = plugin.info.blockSize.minimum;
  expect(plugin.info.size).toBe(model.length);
  try {
    for (const batch of all) {
      const taken: Range[] = [];
      const works: Promise<void>[] = [];
      for (const step of batch) {
        const range = rangeOf(step, model.length, unit);
        const isFree = taken.every(
          (other) =>
            range.offset + range.length <= other.offset || other.offset + other.length <= range.offset,
        );
        const handle = handles[step.handle];
        if (isFree && handle !== undefined) {
          taken.push(range);
          works.push(apply(handle, step, model, range));
        }
      }
      for (const result of await Promise.allSettled(works))
        if (result.status === 'rejected') throw result.reason;
    }
    for (const handle of handles) expectEqual(await readFrom(handle, 0, model.length), model, 0);
  } finally {
    for (const handle of handles) await handle.close();
  }
}
