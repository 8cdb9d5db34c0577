/**
 * A definition as a plugin: its methods decide what is offered, what is missing is emulated or refused, and what
 * they throw becomes a BackendError. The asserts of contract.ts stand around it.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { HANDSHAKE_SECONDS_DEFAULT, SHUTDOWN_SECONDS_MAX } from '../../limits.ts';
import { EIO, EOPNOTSUPP } from '../../native/errno.ts';
import { BackendError } from '../backend-error.ts';
import { withContract } from '../contract.ts';
import {
  ALLOCATION_CONTEXT,
  type Extent,
  type Handle,
  type Plugin,
  type PluginInfo,
  type ZeroOptions,
} from '../plugin.ts';
import { putRead, toExtents } from './answers.ts';
import { attempt, inTime, LATE } from './attempt.ts';
import type { ExportDefinition } from './definition.ts';
import { assertDefinition, completeBlockSize } from './definition-check.ts';
import { toError } from './export-error.ts';

/** Bytes of one write when zeros are written for want of a `zero`: the event loop gets a turn between two. */
const ZERO_WRITE_BYTES_MAX = 1024 * 1024;

export interface CustomOptions {
  /** Refuses every write, whatever the definition can do. */
  readonly isReadOnly: boolean;
}

/** For answers that say nothing but that it is done. */
function done(): void {}

function same<T>(answer: T): T {
  return answer;
}

const METHODS = [
  'open',
  'read',
  'write',
  'flush',
  'trim',
  'zero',
  'cache',
  'extents',
  'close',
  'unload',
] as const;

type Methods = Pick<ExportDefinition<unknown>, (typeof METHODS)[number]>;

/** The methods as they are now: one that vanished later would let a write be acknowledged that nobody made. */
function bindMethods(definition: ExportDefinition<unknown>): Methods {
  const bound = METHODS.flatMap((name) => {
    const method = definition[name];
    return method === undefined ? [] : [[name, method.bind(definition)] as const];
  });
  return Object.fromEntries(bound) as unknown as Methods;
}

/** What all handles of a plugin share. */
interface Shared {
  readonly methods: Methods;
  readonly info: PluginInfo;
  /** Acknowledged data may be lost: why. Every later flush fails. */
  loss: Error | undefined;
}

export class CustomPlugin implements Plugin {
  readonly info: PluginInfo;
  readonly description: string | undefined;
  readonly #shared: Shared;

  private constructor(definition: ExportDefinition<unknown>, { isReadOnly }: CustomOptions) {
    this.info = describe(definition, isReadOnly || definition.write === undefined);
    this.description = definition.description;
    this.#shared = { methods: bindMethods(definition), info: this.info, loss: undefined };
  }

  /** Throws a TypeError or a RangeError of one line when it is no definition. */
  static create(definition: unknown, options: CustomOptions): CustomPlugin {
    assertDefinition(definition);
    return new CustomPlugin(definition, options);
  }

  /** The same with the contract asserted around every call: what a server is given. */
  guarded(): Plugin {
    return withContract(this);
  }

  get lossCount(): number {
    return this.#shared.loss === undefined ? 0 : 1;
  }

  /** Something went wrong outside of any request: whether acknowledged writes were made is unknown from now on. */
  suspect(reason: Error): void {
    if (!this.info.isReadOnly) {
      this.#shared.loss ??= reason;
    }
  }

  async open(): Promise<Handle> {
    const { methods } = this.#shared;
    const opened = (async () => attempt('open', 0, 0, () => methods.open?.(), same))();
    const state = await inTime(opened, HANDSHAKE_SECONDS_DEFAULT);
    if (state === LATE) {
      // Should it open after all, nobody will use it.
      opened.then((late) => methods.close?.(late)).catch(() => {});
      throw new Error(`open did not settle within ${HANDSHAKE_SECONDS_DEFAULT} s`);
    }
    return new CustomHandle(this.#shared, state);
  }

  async close(): Promise<void> {
    const { methods, loss } = this.#shared;
    const unloading = (async () => attempt('unload', 0, 0, () => methods.unload?.(), done))();
    const unloaded = await inTime(unloading, SHUTDOWN_SECONDS_MAX);
    if (loss !== undefined) {
      throw loss;
    }
    if (unloaded === LATE) {
      throw new Error(`unload did not settle within ${SHUTDOWN_SECONDS_MAX} s`);
    }
  }
}

function describe(definition: ExportDefinition<unknown>, isReadOnly: boolean): PluginInfo {
  const canFlush = !isReadOnly && definition.flush !== undefined;
  return {
    size: definition.size,
    isReadOnly,
    isRotational: definition.isRotational ?? false,
    canFlush,
    canFua: canFlush,
    canTrim: !isReadOnly && definition.trim !== undefined,
    canZero: !isReadOnly,
    // With `zero` it is fast by contract; without, a client learns at once that it is not.
    canFastZero: !isReadOnly,
    canCache: definition.cache !== undefined,
    canMultiConn: definition.canMultiConn ?? definition.open === undefined,
    blockSize: completeBlockSize(definition.blockSize),
    metaContexts: definition.extents === undefined ? [] : [ALLOCATION_CONTEXT],
  };
}

class CustomHandle implements Handle {
  readonly #shared: Shared;
  readonly #methods: Methods;
  readonly #state: unknown;
  /** Something was written, or was under way, since the last flush began. */
  #isChanged = false;
  /** Called when a write begins and when it is done: a flush in between need not have covered it. */
  readonly #changed = (): void => {
    this.#isChanged = true;
  };

  constructor(shared: Shared, state: unknown) {
    this.#shared = shared;
    this.#methods = shared.methods;
    this.#state = state;
  }

  read(buffer: Uint8Array, start: number, length: number, offset: number): void | Promise<void> {
    return attempt(
      'read',
      offset,
      length,
      () => this.#methods.read(offset, length, this.#state),
      (answer) => putRead(answer, buffer, start, length),
    );
  }

  write(
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    isFua: boolean,
  ): void | Promise<void> {
    // A copy: the buffer goes back to its pool, and whoever keeps what he is given must not see it change.
    const written = this.#write(offset, new Uint8Array(buffer.subarray(start, start + length)));
    return isFua ? this.#flushAfter(written) : written;
  }

  async flush(): Promise<void> {
    const { loss } = this.#shared;
    if (loss !== undefined) {
      const failure = new BackendError(EIO, 'flush');
      failure.cause = loss;
      throw failure;
    }
    this.#isChanged = false;
    try {
      await attempt('flush', 0, 0, () => this.#methods.flush?.(this.#state), done);
    } catch (error) {
      this.#isChanged = true;
      throw error;
    }
  }

  trim(offset: number, length: number, isFua: boolean): void | Promise<void> {
    const call = () => this.#methods.trim?.(offset, length, this.#state);
    this.#changed();
    const trimmed = length === 0 ? undefined : attempt('trim', offset, length, call, this.#changed);
    return isFua ? this.#flushAfter(trimmed) : trimmed;
  }

  async zero(offset: number, length: number, options: ZeroOptions, isFua: boolean): Promise<void> {
    this.#changed();
    if (length > 0 && !(await this.#zeroed(offset, length, options.mayPunch))) {
      if (options.isFast) {
        throw new BackendError(EOPNOTSUPP, 'fast zero', offset, length);
      }
      await this.#writeZeros(offset, length);
    }
    if (isFua) {
      await this.flush();
    }
  }

  cache(offset: number, length: number): void | Promise<void> {
    const call = () => this.#methods.cache?.(offset, length, this.#state);
    return length === 0 ? undefined : attempt('cache', offset, length, call, done);
  }

  extents(offset: number, length: number): readonly Extent[] | Promise<readonly Extent[]> {
    const { info } = this.#shared;
    if (this.#methods.extents === undefined) {
      // The server asks for its own sake, too: where holes are need not be read.
      return [{ length: info.size - offset, isHole: false, isZero: false }];
    }
    return attempt(
      'extents',
      offset,
      length,
      () => this.#methods.extents?.(offset, length, this.#state),
      (answer) => toExtents(answer, offset, info),
    );
  }

  /** Flushes what was not flushed: a client that leaves without a FLUSH has not asked for its data to be lost. */
  async close(): Promise<void> {
    try {
      if (this.#isChanged && this.#shared.info.canFlush) {
        await this.flush();
      }
    } catch (error) {
      this.#shared.loss ??= toError(error, 'flush');
      throw error;
    } finally {
      await attempt('close', 0, 0, () => this.#methods.close?.(this.#state), done);
    }
  }

  #write(offset: number, data: Uint8Array): void | Promise<void> {
    this.#changed();
    return attempt(
      'write',
      offset,
      data.length,
      () => this.#methods.write?.(offset, data, this.#state),
      this.#changed,
    );
  }

  async #flushAfter(done: void | Promise<void>): Promise<void> {
    await done;
    await this.flush();
  }

  /** False when the definition cannot, or not this time. */
  async #zeroed(offset: number, length: number, mayPunch: boolean): Promise<boolean> {
    if (this.#methods.zero === undefined) {
      return false;
    }
    try {
      const call = () => this.#methods.zero?.(offset, length, { mayPunch }, this.#state);
      await attempt('zero', offset, length, call, this.#changed);
      return true;
    } catch (error) {
      if (error instanceof BackendError && error.errno === EOPNOTSUPP) {
        return false;
      }
      throw error;
    }
  }

  async #writeZeros(offset: number, length: number): Promise<void> {
    for (let done = 0; done < length; done += ZERO_WRITE_BYTES_MAX) {
      await this.#write(offset + done, new Uint8Array(Math.min(ZERO_WRITE_BYTES_MAX, length - done)));
      await nextTurn();
    }
  }
}
