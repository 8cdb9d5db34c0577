/**
 * A plugin on a plain buffer, as the innermost one under filters. It watches over the contract (ranges, alignment,
 * closing) and takes its time in ways that a seed decides, so that requests overtake each other.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Extent, Handle, Plugin, PluginInfo, ZeroOptions } from '../../src/plugins/plugin.ts';
import { INFO } from '../server/fake-plugin.ts';
import { randomNumbers } from '../support/random.ts';

export class BufferPlugin implements Plugin {
  readonly info: PluginInfo;
  readonly bytes: Buffer;
  readonly random: (limit: number) => number;
  /** Names of the handle's methods, in the order of their calls. */
  readonly calls: string[] = [];
  /** False: every read has to wait. */
  canReadNow = true;
  openCount = 0;
  handleCount = 0;
  closeCount = 0;
  abandonCount = 0;
  /** Thrown by the next call of a handle that reads or changes something. */
  failure: Error | undefined;
  /** Thrown by `close`. */
  closeFailure: Error | undefined;

  constructor(bytes: Buffer, seed = 0, info: Partial<PluginInfo> = {}) {
    this.bytes = bytes;
    this.random = randomNumbers(seed);
    this.info = { ...INFO, size: bytes.length, ...info };
  }

  open(): Handle {
    this.openCount += 1;
    this.handleCount += 1;
    return new BufferHandle(this);
  }

  async close(): Promise<void> {
    this.closeCount += 1;
    if (this.handleCount !== 0) throw new Error(`closed with ${this.handleCount} open handles`);
    if (this.closeFailure !== undefined) throw this.closeFailure;
  }

  async abandon(): Promise<void> {
    this.abandonCount += 1;
  }
}

class BufferHandle implements Handle {
  readonly #plugin: BufferPlugin;
  #isClosed = false;
  #inFlight = 0;

  constructor(plugin: BufferPlugin) {
    this.#plugin = plugin;
  }

  readNow(buffer: Uint8Array, start: number, length: number, offset: number): boolean {
    this.#judge('readNow', offset, length);
    if (!this.#plugin.canReadNow || this.#plugin.random(2) === 0) return false;
    buffer.set(this.#plugin.bytes.subarray(offset, offset + length), start);
    return true;
  }

  read(buffer: Uint8Array, start: number, length: number, offset: number): void | Promise<void> {
    this.#judge('read', offset, length);
    return this.#later(() => {
      buffer.set(this.#plugin.bytes.subarray(offset, offset + length), start);
    });
  }

  writeNow(buffer: Uint8Array, start: number, length: number, offset: number): boolean | Promise<void> {
    this.#judgeChange('writeNow', offset, length);
    const choice = this.#plugin.random(3);
    if (choice === 0) return false;
    this.#plugin.bytes.set(buffer.subarray(start, start + length), offset);
    return choice === 1 ? true : nextTurn();
  }

  write(buffer: Uint8Array, start: number, length: number, offset: number): void | Promise<void> {
    this.#judgeChange('write', offset, length);
    return this.#later(() => {
      this.#plugin.bytes.set(buffer.subarray(start, start + length), offset);
    });
  }

  flush(): void | Promise<void> {
    this.#judge('flush', 0, 0);
    return this.#later(() => {});
  }

  trim(offset: number, length: number): void | Promise<void> {
    this.#judgeChange('trim', offset, length);
    return this.#later(() => {
      this.#plugin.bytes.fill(0, offset, offset + length);
    });
  }

  zero(offset: number, length: number, _options: ZeroOptions): void | Promise<void> {
    this.#judgeChange('zero', offset, length);
    return this.#later(() => {
      this.#plugin.bytes.fill(0, offset, offset + length);
    });
  }

  cache(offset: number, length: number): void {
    this.#judge('cache', offset, length);
  }

  /** Runs of zeros of any length are holes; sometimes the answer is short, sometimes it runs past the range. */
  async extents(offset: number, length: number, isRequestOne: boolean): Promise<readonly Extent[]> {
    this.#judge('extents', offset, length);
    const { bytes, random, info } = this.#plugin;
    const { minimum } = info.blockSize;
    const isZeroAt = (at: number): boolean => bytes.subarray(at, at + minimum).every((byte) => byte === 0);
    const end = random(2) === 0 ? bytes.length : offset + length;
    const extents: Extent[] = [];
    for (let position = offset; position < end; ) {
      const isZero = isZeroAt(position);
      let runEnd = position + minimum;
      while (runEnd < end && isZeroAt(runEnd) === isZero) runEnd += minimum;
      extents.push({ length: runEnd - position, isHole: isZero, isZero });
      position = runEnd;
      if (isRequestOne || random(4) === 0) break;
    }
    return extents;
  }

  contextExtents(
    _context: string,
    offset: number,
    length: number,
  ): readonly { length: number; status: number }[] {
    this.#judge('contextExtents', offset, length);
    return [{ length: this.#plugin.info.size - offset, status: offset }];
  }

  close(): void {
    if (this.#isClosed || this.#inFlight > 0) throw new Error('closed twice, or with requests in flight');
    this.#isClosed = true;
    this.#plugin.handleCount -= 1;
  }

  #judgeChange(operation: string, offset: number, length: number): void {
    if (this.#plugin.info.isReadOnly) throw new Error(`${operation} on a read-only export`);
    this.#judge(operation, offset, length);
  }

  #judge(operation: string, offset: number, length: number): void {
    const { info, calls } = this.#plugin;
    calls.push(operation);
    const { minimum } = info.blockSize;
    const isLegal =
      offset >= 0 && length >= 0 && offset + length <= info.size && Number.isSafeInteger(offset);
    if (!isLegal || offset % minimum !== 0 || length % minimum !== 0 || this.#isClosed) {
      throw new Error(`illegal: ${operation} of ${length} bytes at ${offset}`);
    }
    const { failure } = this.#plugin;
    if (failure !== undefined && operation !== 'readNow') {
      this.#plugin.failure = undefined;
      throw failure;
    }
  }

  #later(work: () => void): void | Promise<void> {
    const turns = this.#plugin.random(4);
    if (turns === 0) return work();
    this.#inFlight += 1;
    return (async () => {
      for (let turn = 1; turn < turns; turn += 1) await nextTurn();
      work();
      this.#inFlight -= 1;
    })();
  }
}
