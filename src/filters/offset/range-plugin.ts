/** A range of an export as an export of its own: everything is shifted on the way down and cut on the way up. */
import type { Extent, Handle, Plugin, ZeroOptions } from '../../plugins/plugin.ts';
import type { StatusExtent } from '../../protocol/reply.ts';
import { formatSize } from '../../units/size.ts';
import { FilterError } from '../filter-error.ts';
import { PassThroughHandle, PassThroughPlugin } from '../pass-through.ts';

export interface ExportRange {
  /** First byte in the inner export. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
}

/**
 * Throws a FilterError when the range is not inside the inner export, or cuts through its blocks: requests that
 * are aligned to them would not be any more. `what` names the range in the error.
 */
export function assertRange({ info }: Plugin, { offset, length }: ExportRange, what: string): void {
  const { size, blockSize } = info;
  if (offset + length > size) {
    throw new FilterError(
      `${what} ends at ${formatSize(offset + length)}, past the end of the export, which has ${formatSize(size)}`,
    );
  }
  if (offset % blockSize.minimum !== 0 || length % blockSize.minimum !== 0) {
    throw new FilterError(
      `${what} is not made of whole blocks of ${blockSize.minimum} bytes, as requests are`,
    );
  }
}

export class RangePlugin extends PassThroughPlugin {
  readonly #range: ExportRange;

  /** `range` is inside the inner export (`assertRange`). */
  constructor(inner: Plugin, range: ExportRange) {
    super(inner, { ...inner.info, size: range.length }, range.offset);
    this.#range = range;
  }

  protected override wrap(handle: Handle): Handle {
    return new RangeHandle(handle, this.#range);
  }
}

class RangeHandle extends PassThroughHandle {
  readonly #offset: number;
  readonly #length: number;

  constructor(inner: Handle, { offset, length }: ExportRange) {
    super(inner);
    this.#offset = offset;
    this.#length = length;
  }

  override readNow(buffer: Uint8Array, start: number, length: number, offset: number): boolean {
    return super.readNow(buffer, start, length, this.#offset + offset);
  }

  override read(buffer: Uint8Array, start: number, length: number, offset: number): void | Promise<void> {
    return super.read(buffer, start, length, this.#offset + offset);
  }

  override writeNow(
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
  ): boolean | Promise<void> {
    return super.writeNow(buffer, start, length, this.#offset + offset);
  }

  override write(
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    isFua: boolean,
  ): void | Promise<void> {
    return super.write(buffer, start, length, this.#offset + offset, isFua);
  }

  override trim(offset: number, length: number, isFua: boolean): void | Promise<void> {
    return super.trim(this.#offset + offset, length, isFua);
  }

  override zero(offset: number, length: number, options: ZeroOptions, isFua: boolean): void | Promise<void> {
    return super.zero(this.#offset + offset, length, options, isFua);
  }

  override cache(offset: number, length: number): void | Promise<void> {
    return super.cache(this.#offset + offset, length);
  }

  override async extents(offset: number, length: number, isRequestOne: boolean): Promise<readonly Extent[]> {
    return this.#cut(offset, await super.extents(this.#offset + offset, length, isRequestOne));
  }

  override async contextExtents(
    context: string,
    offset: number,
    length: number,
    isRequestOne: boolean,
  ): Promise<readonly StatusExtent[]> {
    const extents = await super.contextExtents(context, this.#offset + offset, length, isRequestOne);
    return this.#cut(offset, extents);
  }

  /** Extents may run past what was asked, and past the end of the range with it. */
  #cut<T extends { readonly length: number }>(offset: number, extents: readonly T[]): T[] {
    const inside: T[] = [];
    let rest = this.#length - offset;
    for (const extent of extents) {
      if (rest <= 0) {
        break;
      }
      inside.push({ ...extent, length: Math.min(extent.length, rest) });
      rest -= extent.length;
    }
    return inside;
  }
}
