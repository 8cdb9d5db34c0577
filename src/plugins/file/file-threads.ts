/**
 * The main thread's end of the links to the threads that serve a file (thread-link.ts). Here every FLUSH is made,
 * whoever asks: fdatasync on the one descriptor, one at a time, and one latch. Two at a time in two threads would
 * not do, because the kernel tells a write-back error to one of them only.
 */
import { randomUUID } from 'node:crypto';
import { BroadcastChannel } from 'node:worker_threads';
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

export class FileThreads implements OtherThreads {
  readonly durability: Durability;
  /** To be handed to the threads. */
  readonly words: Int32Array;
  readonly channels: string = `nbd-serve-file-${randomUUID()}`;

  readonly #links: readonly BroadcastChannel[];
  readonly #settling = new Map<number, () => void>();
  #nextId = 0;

  /** `createDurability` makes the one of the file, which is to know of these threads. */
  constructor(threadCount: number, createDurability: (threads: OtherThreads) => Durability) {
    this.durability = createDurability(this);
    this.words = createWords(threadCount);
    this.#links = Array.from({ length: threadCount }, (_, thread) => {
      const link = new BroadcastChannel(channelName(this.channels, thread));
      link.onmessage = (event) => {
        this.#receive(thread, (event as { readonly data: ToMain }).data);
      };
      link.unref();
      return link;
    });
  }

  takeChanged(): boolean {
    return Atomics.exchange(this.words, CHANGED, 0) === 1;
  }

  async settled(): Promise<void> {
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
    for (const link of this.#links) {
      link.close();
    }
  }

  #settle(thread: number): Promise<void> {
    const id = this.#nextId;
    this.#nextId += 1;
    return new Promise((resolve) => {
      this.#settling.set(id, resolve);
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
        for (const other of this.#links.keys()) {
          if (other !== thread) {
            this.#tell(other, { type: 'sweep' });
          }
        }
        break;
      case 'settled':
        this.#settling.get(message.id)?.();
        this.#settling.delete(message.id);
        break;
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
    this.#links[thread]?.postMessage(message);
  }
}
