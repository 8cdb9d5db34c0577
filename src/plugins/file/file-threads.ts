/**
 * The main thread's end of the links to the worker threads that serve a file (thread-link.ts). Here every FLUSH is made,
 * whoever asks: fdatasync on the one descriptor, one at a time, and one latch. Two at a time in two threads would
 * not do, because the kernel tells a write-back error to one of them only.
 */
import { randomUUID } from 'node:crypto';
import { BroadcastChannel } from 'node:worker_threads';
import { EIO } from '../../native/errno.ts';
import { BackendError } from '../backend-error.ts';
import type { Durability, OtherThreads } from './durability.ts';
import {
  CHANGED,
  channelName,
  createWords,
  errorText,
  type ToMain,
  type ToThread,
  toError,
  unsettledWord,
} from './thread-link.ts';

const MAIN = 0;

/** Somebody who waits for a thread's calls. */
interface Settling {
  readonly thread: number;
  readonly done: () => void;
}

export class FileThreads implements OtherThreads {
  readonly durability: Durability;
  /** To be handed to the threads. */
  readonly words: Int32Array;
  readonly channels: string = `nbd-serve-file-${randomUUID()}`;

  readonly #sweep: () => void;
  /** By thread, of those that have not left. */
  readonly #links: Map<number, BroadcastChannel>;
  /** Those that have left. */
  readonly #left = new Set<number>();
  readonly #settling = new Map<number, Settling>();
  #nextId = 0;

  /**
   * `threadCount`: of those that serve, the main one included. `createDurability` makes the one of the file, which is to
   * know of these threads; `sweep` is called when a FLUSH has succeeded in one of them.
   */
  constructor(
    threadCount: number,
    createDurability: (threads: OtherThreads) => Durability,
    sweep: () => void,
  ) {
    this.durability = createDurability(this);
    this.words = createWords(threadCount);
    this.#sweep = sweep;
    this.#links = new Map(Array.from({ length: threadCount - 1 }, (_, index) => this.#link(1 + index)));
  }

  #link(thread: number): [number, BroadcastChannel] {
    const link = new BroadcastChannel(channelName(this.channels, thread));
    link.onmessage = (event) => {
      this.#receive(thread, (event as { readonly data: ToMain }).data);
    };
    link.unref();
    return [thread, link];
  }

  takeChanged(): boolean {
    return Atomics.exchange(this.words, CHANGED, 0) === 1;
  }

  /** Has the other threads sweep the page cache, after a FLUSH that succeeded in `thread`: here, unless told. */
  sweepOthers(thread = MAIN): void {
    for (const other of this.#links.keys()) {
      if (other !== thread) {
        this.#tell(other, { type: 'sweep' });
      }
    }
  }

  async settled(): Promise<void> {
    for (const thread of this.#left) {
      // Nobody would tell any more what became of it, so it counts as lost.
      if (Atomics.exchange(this.words, unsettledWord(thread), 0) > 0) {
        this.durability.latch(
          new BackendError(EIO, 'sync_file_range', 0, 0, 'A thread that has left never told of it'),
        );
      }
    }
    const asked: Promise<void>[] = [];
    for (const thread of this.#links.keys()) {
      // Pairs with `RemoteDurability`, which counts a call down only when its error is latched here. Most of the
      // time nothing is under way, and no other thread needs to be woken.
      if (Atomics.load(this.words, unsettledWord(thread)) > 0) {
        asked.push(this.#settle(thread));
      }
    }
    await Promise.all(asked);
  }

  close(): void {
    for (const link of this.#links.values()) {
      link.close();
    }
  }

  #settle(thread: number): Promise<void> {
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve) => {
      this.#settling.set(id, { thread, done: resolve });
      this.#tell(thread, { type: 'settle', id });
    });
  }

  #receive(thread: number, message: ToMain): void {
    switch (message.type) {
      case 'flush':
        void this.#flush(thread, message.id);
        break;
      case 'loss':
        this.durability.latch(toError(message.loss));
        Atomics.sub(this.words, unsettledWord(thread), 1);
        break;
      case 'sweep':
        this.#sweep();
        this.sweepOthers(thread);
        break;
      case 'settled':
        this.#settling.get(message.id)?.done();
        this.#settling.delete(message.id);
        break;
      case 'left':
        this.#forget(thread);
        break;
    }
  }

  /** Its losses came before, and are latched: the channel keeps the order. A question that crossed its leaving has no answer. */
  #forget(thread: number): void {
    this.#links.get(thread)?.close();
    this.#links.delete(thread);
    this.#left.add(thread);
    for (const [id, settling] of this.#settling) {
      if (settling.thread === thread) {
        this.#settling.delete(id);
        settling.done();
      }
    }
  }

  async #flush(thread: number, id: number): Promise<void> {
    try {
      await this.durability.flush();
    } catch (error) {
      if (!(error instanceof BackendError)) {
        throw error;
      }
      return this.#tell(thread, { type: 'flushed', id, error: errorText(error) });
    }
    this.#tell(thread, { type: 'flushed', id, error: undefined });
  }

  #tell(thread: number, message: ToThread): void {
    this.#links.get(thread)?.postMessage(message);
  }
}
