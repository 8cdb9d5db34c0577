/**
 * The contract of plugin.ts, asserted around every call of a handle: what the server may ask, what a plugin may
 * answer, and when. A broken assertion is a bug on one of the two sides; it is thrown, so that the client hears
 * EIO and the log the reason. Plugins of strangers run inside it always, ours in tests.
 */
import type { StatusExtent } from '../protocol/reply.ts';
import { BackendError } from './backend-error.ts';
import type { Extent, Handle, LentMemory, Plugin, PluginInfo, ZeroOptions } from './plugin.ts';

/** The largest errno of Linux (MAX_ERRNO in include/linux/err.h). */
const ERRNO_MAX = 4095;

export class ContractError extends Error {
  override readonly name = 'ContractError';
}

/** The same plugin, with the contract asserted around every call of its handles. */
export function withContract(plugin: Plugin): Plugin {
  return {
    info: plugin.info,
    description: plugin.description,
    get lossCount() {
      return plugin.lossCount;
    },
    open: async () => new ContractHandle(await plugin.open(), plugin.info),
    close: () => plugin.close(),
    ...(plugin.residentBytes === undefined ? {} : { residentBytes: plugin.residentBytes.bind(plugin) }),
    ...(plugin.settle === undefined ? {} : { settle: plugin.settle.bind(plugin) }),
    ...(plugin.abandon === undefined ? {} : { abandon: () => plugin.abandon?.() ?? Promise.resolve() }),
  };
}

function assert(condition: boolean, message: () => string): void {
  if (!condition) {
    throw new ContractError(message());
  }
}

class ContractHandle implements Handle {
  /** There only when the plugin has them: the server asks whether they exist. */
  readonly readNow?: NonNullable<Handle['readNow']>;
  readonly residentFile?: NonNullable<Handle['residentFile']>;
  readonly writeNow?: NonNullable<Handle['writeNow']>;
  readonly receiveWrite?: NonNullable<Handle['receiveWrite']>;
  readonly lend?: NonNullable<Handle['lend']>;
  readonly contextExtents?: NonNullable<Handle['contextExtents']>;
  readonly #inner: Handle;
  readonly #info: PluginInfo;
  #inFlight = 0;
  #isClosed = false;

  constructor(inner: Handle, info: PluginInfo) {
    this.#inner = inner;
    this.#info = info;
    const { readNow, residentFile, writeNow, receiveWrite, lend, contextExtents } = inner;
    if (readNow !== undefined) {
      this.readNow = (buffer, start, length, offset) => {
        this.#assertTransfer('readNow', buffer, start, length, offset);
        return readNow.call(inner, buffer, start, length, offset);
      };
    }
    if (residentFile !== undefined) {
      this.residentFile = (offset, length) => {
        this.#assertRange('residentFile', offset, length);
        return residentFile.call(inner, offset, length);
      };
    }
    if (writeNow !== undefined) {
      this.writeNow = (buffer, start, length, offset) => {
        this.#assertCan('writeNow', !info.isReadOnly);
        this.#assertTransfer('writeNow', buffer, start, length, offset);
        const result = writeNow.call(inner, buffer, start, length, offset);
        return typeof result === 'boolean' ? result : this.#watch('writeNow', Promise.resolve(result));
      };
    }
    if (receiveWrite !== undefined) {
      this.receiveWrite = (offset, length) => {
        this.#assertCan('receiveWrite', !info.isReadOnly);
        this.#assertRange('receiveWrite', offset, length);
        return receiveWrite.call(inner, offset, length);
      };
    }
    if (lend !== undefined) {
      this.lend = (offset, length, purpose) => {
        this.#assertCan(`lend for a ${purpose}`, purpose === 'read' || !info.isReadOnly);
        this.#assertRange('lend', offset, length);
        return this.#watchLent(lend.call(inner, offset, length, purpose), length, purpose);
      };
    }
    if (contextExtents !== undefined) {
      this.contextExtents = (context, offset, length, isRequestOne) => {
        this.#assertCan(`contextExtents of ${context}`, info.metaContexts.includes(context));
        this.#assertRange('contextExtents', offset, length);
        return this.#around('contextExtents', () =>
          contextExtents.call(inner, context, offset, length, isRequestOne),
        );
      };
    }
  }

  read(buffer: Uint8Array, start: number, length: number, offset: number): void | Promise<void> {
    this.#assertTransfer('read', buffer, start, length, offset);
    return this.#around('read', () => this.#inner.read(buffer, start, length, offset));
  }

  write(
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    isFua: boolean,
  ): void | Promise<void> {
    this.#assertCan('write', !this.#info.isReadOnly);
    this.#assertFua('write', isFua);
    this.#assertTransfer('write', buffer, start, length, offset);
    return this.#around('write', () => this.#inner.write(buffer, start, length, offset, isFua));
  }

  flush(): void | Promise<void> {
    this.#assertCan('flush', this.#info.canFlush);
    return this.#around('flush', () => this.#inner.flush());
  }

  trim(offset: number, length: number, isFua: boolean): void | Promise<void> {
    this.#assertCan('trim', !this.#info.isReadOnly && this.#info.canTrim);
    this.#assertFua('trim', isFua);
    this.#assertRange('trim', offset, length);
    return this.#around('trim', () => this.#inner.trim(offset, length, isFua));
  }

  zero(offset: number, length: number, options: ZeroOptions, isFua: boolean): void | Promise<void> {
    this.#assertCan('zero', !this.#info.isReadOnly && this.#info.canZero);
    this.#assertCan('fast zero', !options.isFast || this.#info.canFastZero);
    this.#assertFua('zero', isFua);
    this.#assertRange('zero', offset, length);
    return this.#around('zero', () => this.#inner.zero(offset, length, options, isFua));
  }

  cache(offset: number, length: number): void | Promise<void> {
    this.#assertCan('cache', this.#info.canCache);
    this.#assertRange('cache', offset, length);
    return this.#around('cache', () => this.#inner.cache(offset, length));
  }

  async extents(offset: number, length: number, isRequestOne: boolean): Promise<readonly Extent[]> {
    this.#assertRange('extents', offset, length);
    const extents = await this.#around('extents', () => this.#inner.extents(offset, length, isRequestOne));
    this.#assertExtents(offset, extents);
    return extents;
  }

  close(): void | Promise<void> {
    assert(!this.#isClosed, () => 'A handle is closed twice');
    assert(this.#inFlight === 0, () => `A handle is closed with ${this.#inFlight} calls in flight`);
    this.#isClosed = true;
    return this.#inner.close();
  }

  /** Makes the call, counts it as long as it is in flight, and looks at what it throws. */
  #around<T>(operation: string, call: () => T | Promise<T>): T | Promise<T> {
    try {
      const result = call();
      return result instanceof Promise ? this.#watch(operation, result) : result;
    } catch (error) {
      throw withLegalErrno(operation, error);
    }
  }

  async #watch<T>(operation: string, result: Promise<T>): Promise<T> {
    this.#inFlight += 1;
    try {
      return await result;
    } catch (error) {
      throw withLegalErrno(operation, error);
    } finally {
      this.#inFlight -= 1;
    }
  }

  /** In flight until it is given back. */
  #watchLent(
    lent: LentMemory | undefined,
    length: number,
    purpose: 'read' | 'write',
  ): LentMemory | undefined {
    if (lent === undefined) {
      return undefined;
    }
    const isEnough = purpose === 'read' ? lent.length === length : lent.length > 0 && lent.length <= length;
    const sum = lent.arrays.reduce((total, _array, index) => total + (lent.ranges[2 * index + 1] ?? 0), 0);
    assert(isEnough && sum === lent.length, () => `${lent.length} bytes in ${sum} are lent of ${length}`);
    this.#inFlight += 1;
    let isLent = true;
    return {
      ...lent,
      giveBack: () => {
        assert(isLent, () => 'Memory is given back twice');
        isLent = false;
        this.#inFlight -= 1;
        lent.giveBack();
      },
    };
  }

  #assertCan(operation: string, isOffered: boolean): void {
    assert(!this.#isClosed, () => `${operation} is called on a closed handle`);
    assert(isOffered, () => `${operation} is called, and the export does not offer it`);
  }

  #assertFua(operation: string, isFua: boolean): void {
    assert(!isFua || this.#info.canFua, () => `${operation} is called with FUA, and the export has none`);
  }

  #assertTransfer(
    operation: string,
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
  ): void {
    this.#assertRange(operation, offset, length);
    assert(
      Number.isSafeInteger(start) && start >= 0 && start + length <= buffer.length,
      () => `${operation} of ${length} bytes does not fit into a buffer of ${buffer.length} at ${start}`,
    );
  }

  #assertRange(operation: string, offset: number, length: number): void {
    assert(!this.#isClosed, () => `${operation} is called on a closed handle`);
    const { size, blockSize } = this.#info;
    assert(
      Number.isSafeInteger(offset) &&
        Number.isSafeInteger(length) &&
        offset >= 0 &&
        length >= 0 &&
        length <= size - offset,
      () => `${operation} of ${length} bytes at ${offset} is outside the export of ${size} bytes`,
    );
    assert(
      offset % blockSize.minimum === 0 && length % blockSize.minimum === 0,
      () => `${operation} of ${length} bytes at ${offset} is no multiple of ${blockSize.minimum}`,
    );
  }

  #assertExtents(offset: number, extents: readonly (Extent | StatusExtent)[]): void {
    assert(extents.length > 0, () => `extents at ${offset} are none at all`);
    let position = offset;
    for (const { length } of extents) {
      assert(
        Number.isSafeInteger(length) && length > 0 && length <= this.#info.size - position,
        () => `extents at ${offset}: a length of ${length} at ${position} is not inside the export`,
      );
      position += length;
    }
  }
}

function withLegalErrno(operation: string, error: unknown): unknown {
  if (error instanceof BackendError) {
    const errno: number = error.errno;
    if (!(Number.isSafeInteger(errno) && errno > 0 && errno <= ERRNO_MAX)) {
      return new ContractError(`${operation} failed with ${errno}, which is no errno`, { cause: error });
    }
  }
  return error;
}
