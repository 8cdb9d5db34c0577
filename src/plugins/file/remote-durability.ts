/**
 * What FLUSH and FUA may promise, as a thread that serves a file sees it: the main thread has the descriptor's one
 * latch and makes every fdatasync (file-threads.ts). Calls that can consume a write-back error run here, too, and
 * a FLUSH elsewhere must not succeed past one: shared memory says how many are under way.
 */
import { BroadcastChannel } from 'node:worker_threads';
import type { RangeResult } from '../../native/call.ts';
import { errnoOf } from '../../native/errno.ts';
import { BackendError } from '../backend-error.ts';
import { type FileDurability, isLoss } from './durability.ts';
import {
  CHANGED,
  channelName,
  errorText,
  type ToMain,
  type ToThread,
  toError,
  unsettledWord,
} from './thread-link.ts';

export interface RemoteDurabilityOptions {
  readonly words: Int32Array;
  readonly channels: string;
  readonly thread: number;
  /** Called when a FLUSH has succeeded in another thread. */
  readonly sweep: () => void;
}

interface Flush {
  resolve(): void;
  reject(error: BackendError): void;
}

export class RemoteDurability implements FileDurability {
  readonly #words: Int32Array;
  readonly #unsettled: number;
  readonly #link: BroadcastChannel;
  readonly #sweep: () => void;
  readonly #watched = new Set<Promise<void>>();
  readonly #flushes = new Map<number, Flush>();
  #nextId = 0;
  #isClosed = false;

  constructor({ words, channels, thread, sweep }: RemoteDurabilityOptions) {
    this.#words = words;
    this.#unsettled = unsettledWord(thread);
    this.#sweep = sweep;
    this.#link = new BroadcastChannel(channelName(channels, thread));
    this.#link.onmessage = (event) => {
      this.#receive((event as { readonly data: ToThread }).data);
    };
    this.#link.unref();
  }

  changed(): void {
    Atomics.store(this.#words, CHANGED, 1);
  }

  /** The question leaves after everything that was written before in this thread, and whatever its clients know. */
  flush(): Promise<void> {
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve, reject) => {
      this.#flushes.set(id, { resolve, reject });
      this.#tell({ type: 'flush', id });
    });
  }

  /** Has the other threads sweep the page cache, after a FLUSH that succeeded here. */
  sweepOthers(): void {
    this.#tell({ type: 'sweep' });
  }

  watch(operation: string, start: () => Promise<RangeResult>): Promise<void> {
    // Before the call: it may have the kernel's error in hand before `start` returns.
    Atomics.add(this.#words, this.#unsettled, 1);
    const reported = this.#report(operation, start()).finally(() => this.#watched.delete(reported));
    this.#watched.add(reported);
    return reported;
  }

  failed(error: unknown): unknown {
    if (isLoss(error)) {
      Atomics.add(this.#words, this.#unsettled, 1);
      this.#latch(error);
    }
    return error;
  }

  /** Once, when nobody uses it any more. Done when the main thread has been told of every loss, and that it is asked in vain. */
  async close(): Promise<void> {
    while (this.#watched.size > 0) {
      await Promise.all(this.#watched);
    }
    this.#tell({ type: 'left' });
    this.#isClosed = true;
    this.#link.close();
  }

  async #report(operation: string, work: Promise<RangeResult>): Promise<void> {
    const { result, offset, length } = await work;
    if (result < 0) {
      this.#latch(new BackendError(errnoOf(result), operation, offset, length));
    } else {
      Atomics.sub(this.#words, this.#unsettled, 1);
    }
  }

  /** The main thread counts it down, when it has it. */
  #latch(loss: BackendError): void {
    loss.isLogged = true;
    this.#tell({ type: 'loss', loss: errorText(loss) });
  }

  #receive(message: ToThread): void {
    switch (message.type) {
      case 'flushed': {
        const flush = this.#flushes.get(message.id);
        this.#flushes.delete(message.id);
        if (message.error === undefined) {
          flush?.resolve();
        } else {
          flush?.reject(toError(message.error));
        }
        break;
      }
      case 'settle':
        void this.#settle(message.id);
        break;
      case 'sweep':
        this.#sweep();
        break;
    }
  }

  async #settle(id: number): Promise<void> {
    await Promise.all(this.#watched);
    // Else `left` has answered. Behind the losses that those calls have told: the channel keeps the order.
    if (!this.#isClosed) {
      this.#tell({ type: 'settled', id });
    }
  }

  #tell(message: ToMain): void {
    this.#link.postMessage(message);
  }
}
