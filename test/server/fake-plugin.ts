/** Plugins without a file behind them: every call is recorded, and the test decides when and how it ends. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import type { Extent, Handle, Plugin, PluginInfo, ZeroOptions } from '../../src/plugins/plugin.ts';

export const INFO: PluginInfo = {
  size: 1024 ** 3,
  isReadOnly: false,
  isRotational: false,
  canFlush: true,
  canFua: true,
  canTrim: true,
  canZero: true,
  canFastZero: true,
  canCache: true,
  canMultiConn: true,
  blockSize: { minimum: 1, preferred: 4096 },
  metaContexts: ['base:allocation'],
};

export interface Call {
  readonly operation: 'read' | 'write' | 'flush' | 'trim' | 'zero' | 'cache' | 'extents';
  readonly offset: number;
  readonly length: number;
  readonly isFua?: boolean;
  readonly options?: ZeroOptions;
}

/** A call that has not ended. */
export interface PendingCall extends Call {
  /** The data of a write, as it is now. */
  readonly data?: Uint8Array;
  /** Where a read goes. */
  readonly target?: Uint8Array;
  resolve(): void;
  reject(error: unknown): void;
}

/** How calls end: when the test says so, at once, or a turn of the event loop later. */
export type Pace = 'controlled' | 'immediate' | 'deferred';

export class FakeHandle implements Handle {
  readonly calls: Call[] = [];
  readonly pending: PendingCall[] = [];
  extentsFound: readonly Extent[] = [{ length: 4096, isHole: false, isZero: false }];
  closeCount = 0;
  /** Calls that had not ended when the handle was closed: the contract says none. */
  pendingAtClose = 0;
  readonly #pace: Pace;

  constructor(pace: Pace) {
    this.#pace = pace;
  }

  read(buffer: Uint8Array, start: number, length: number, offset: number): void | Promise<void> {
    return this.#begin(
      { operation: 'read', offset, length },
      { target: buffer.subarray(start, start + length) },
    );
  }

  write(
    buffer: Uint8Array,
    start: number,
    length: number,
    offset: number,
    isFua: boolean,
  ): void | Promise<void> {
    const data = buffer.subarray(start, start + length);
    return this.#begin({ operation: 'write', offset, length, isFua }, { data });
  }

  flush(): void | Promise<void> {
    return this.#begin({ operation: 'flush', offset: 0, length: 0 });
  }

  trim(offset: number, length: number, isFua: boolean): void | Promise<void> {
    return this.#begin({ operation: 'trim', offset, length, isFua });
  }

  zero(offset: number, length: number, options: ZeroOptions, isFua: boolean): void | Promise<void> {
    return this.#begin({ operation: 'zero', offset, length, options, isFua });
  }

  cache(offset: number, length: number): void | Promise<void> {
    return this.#begin({ operation: 'cache', offset, length });
  }

  extents(offset: number, length: number): readonly Extent[] | Promise<readonly Extent[]> {
    const result = this.#begin({ operation: 'extents', offset, length });
    return result === undefined ? this.extentsFound : result.then(() => this.extentsFound);
  }

  close(): void {
    this.closeCount += 1;
    this.pendingAtClose += this.pending.length;
  }

  #begin(call: Call, buffers: Pick<PendingCall, 'data' | 'target'> = {}): void | Promise<void> {
    this.calls.push(call);
    if (this.#pace === 'immediate') {
      return;
    }
    const promise = new Promise<void>((resolve, reject) => {
      const end = (finish: () => void): void => {
        this.pending.splice(this.pending.indexOf(pending), 1);
        finish();
      };
      const pending: PendingCall = {
        ...call,
        ...buffers,
        resolve: () => end(resolve),
        reject: (error) => end(() => reject(error)),
      };
      this.pending.push(pending);
      if (this.#pace === 'deferred') {
        void nextTurn().then(() => {
          pending.resolve();
        });
      }
    });
    return promise;
  }
}

export class FakePlugin implements Plugin {
  readonly info: PluginInfo;
  readonly handles: FakeHandle[] = [];
  closeCount = 0;
  /** Replaces the opening of a handle: to be slow, or to fail. */
  beforeOpen: () => void | Promise<void> = () => {};
  /** Replaces the closing of the plugin: to fail. */
  beforeClose: () => void | Promise<void> = () => {};
  readonly #pace: Pace;

  constructor(pace: Pace = 'controlled', info: Partial<PluginInfo> = {}) {
    this.#pace = pace;
    this.info = { ...INFO, ...info };
  }

  /** The only handle so far. */
  get handle(): FakeHandle {
    const [handle] = this.handles;
    if (handle === undefined || this.handles.length > 1) {
      throw new Error(`${this.handles.length} handles are open, not one`);
    }
    return handle;
  }

  async open(): Promise<FakeHandle> {
    await this.beforeOpen();
    const handle = new FakeHandle(this.#pace);
    this.handles.push(handle);
    return handle;
  }

  async close(): Promise<void> {
    this.closeCount += 1;
    await this.beforeClose();
  }
}
