/**
 * A handle for filters that treat all requests alike: each one passes through `around`, which decides when and
 * whether it goes on to the inner handle. There is no `readNow` and no `writeNow`: those may not wait, and every
 * request comes as a `read` or `write` without them.
 */
import type { Extent, Handle, ZeroOptions } from '../plugins/plugin.ts';
import type { StatusExtent } from '../protocol/reply.ts';

/** What clients ask for, as filters name it in their options. */
export const COMMANDS = ['read', 'write', 'flush', 'trim', 'zero', 'cache', 'extents'] as const;

export type Command = (typeof COMMANDS)[number];

export interface InterceptedRequest {
  readonly command: Command;
  /** 0, as the length, for a flush. */
  readonly offset: number;
  /** Bytes. */
  readonly length: number;
  readonly isFua: boolean;
}

export abstract class InterceptedHandle implements Handle {
  readonly #inner: Handle;

  constructor(inner: Handle) {
    this.#inner = inner;
  }

  read(buffer: Uint8Array, start: number, length: number, offset: number): Promise<void> {
    return this.#pass('read', offset, length, false, () => this.#inner.read(buffer, start, length, offset));
  }

  write(buffer: Uint8Array, start: number, length: number, offset: number, isFua: boolean): Promise<void> {
    return this.#pass('write', offset, length, isFua, () =>
      this.#inner.write(buffer, start, length, offset, isFua),
    );
  }

  flush(): Promise<void> {
    return this.#pass('flush', 0, 0, false, () => this.#inner.flush());
  }

  trim(offset: number, length: number, isFua: boolean): Promise<void> {
    return this.#pass('trim', offset, length, isFua, () => this.#inner.trim(offset, length, isFua));
  }

  zero(offset: number, length: number, options: ZeroOptions, isFua: boolean): Promise<void> {
    return this.#pass('zero', offset, length, isFua, () => this.#inner.zero(offset, length, options, isFua));
  }

  cache(offset: number, length: number): Promise<void> {
    return this.#pass('cache', offset, length, false, () => this.#inner.cache(offset, length));
  }

  extents(offset: number, length: number, isRequestOne: boolean): Promise<readonly Extent[]> {
    return this.#pass('extents', offset, length, false, () =>
      this.#inner.extents(offset, length, isRequestOne),
    );
  }

  contextExtents(
    context: string,
    offset: number,
    length: number,
    isRequestOne: boolean,
  ): Promise<readonly StatusExtent[]> {
    return this.#pass('extents', offset, length, false, () => {
      if (this.#inner.contextExtents === undefined) {
        throw new Error(`Bug: the inner plugin knows no meta context ${context}`);
      }
      return this.#inner.contextExtents(context, offset, length, isRequestOne);
    });
  }

  close(): void | Promise<void> {
    return this.#inner.close();
  }

  /** Does the `work` of a request, or does not; what it answers or throws is the answer to the client. */
  protected abstract around<T>(request: InterceptedRequest, work: () => Promise<T>): Promise<T>;

  #pass<T>(
    command: Command,
    offset: number,
    length: number,
    isFua: boolean,
    work: () => T | Promise<T>,
  ): Promise<T> {
    return this.around({ command, offset, length, isFua }, async () => work());
  }
}
