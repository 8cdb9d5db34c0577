/** What the methods of a definition may answer; anything else throws, and the request fails with EIO. */
import { inspect, types } from 'node:util';
import type { Extent, PluginInfo } from '../plugin.ts';
import type { ExportExtent } from './definition.ts';

/** Copies the answer of `read` into `buffer` from `start` on. */
export function putRead(answer: unknown, buffer: Uint8Array, start: number, length: number): void {
  // Not instanceof: the array may come from another realm, such as a test runner's context.
  if (!types.isUint8Array(answer)) {
    throw new TypeError(`read must return a Uint8Array, not ${inspect(answer, { depth: 0 })}`);
  }
  if (answer.length !== length) {
    throw new RangeError(`read must return ${length} bytes, and returned ${answer.length}`);
  }
  buffer.set(answer, start);
}

/** The answer of `extents` as the server wants it. */
export function toExtents(answer: unknown, offset: number, { size, blockSize }: PluginInfo): Extent[] {
  if (!Array.isArray(answer) || answer.length === 0) {
    throw new TypeError(`extents must return an array of at least one, not ${inspect(answer, { depth: 0 })}`);
  }
  let position = offset;
  return answer.map((extent: Partial<ExportExtent> | null | undefined) => {
    const { offset: start, length = 0, isHole = false, isZero = false } = extent ?? {};
    if (start !== position) {
      throw new RangeError(
        `extents must follow each other: one at ${position} is due, and one at ${start} came`,
      );
    }
    const isInside = Number.isSafeInteger(length) && length > 0 && length <= size - position;
    if (!isInside || length % blockSize.minimum !== 0) {
      throw new RangeError(
        `extents must be inside the export and multiples of ${blockSize.minimum}: the one at ${position} has a length of ${length}`,
      );
    }
    if (typeof isHole !== 'boolean' || typeof isZero !== 'boolean') {
      throw new TypeError(`extents: isHole and isZero are true, false or left out, at ${position}`);
    }
    position += length;
    return { length, isHole, isZero };
  });
}
