/**
 * What a TLS socket has still to send. It encrypts all that it is handed, and so keeps a second copy beside ours,
 * which no budget counts: 20 clients that never read brought the process to 589 MiB. Hence it is handed a little at
 * a time, and the rest waits here as the plaintext that the budget knows of.
 */
import type { TLSSocket } from 'node:tls';
import { TLS_WRITING_BYTES_MAX } from '../limits.ts';

/**
 * The largest piece: while one is on its way to the kernel, the next is there to be encrypted. A reply of 1 MiB goes
 * in one, with its header.
 */
const PIECE_BYTES_MAX = TLS_WRITING_BYTES_MAX / 2 + 64;

interface WaitingWrite {
  readonly bytes: Uint8Array;
  position: number;
  readonly taken: (() => void) | undefined;
}

export class SecureWrites {
  readonly #socket: TLSSocket;
  /** The oldest first; some of the first may be with the socket. */
  readonly #waiting: WaitingWrite[] = [];
  readonly #drained: (() => void)[] = [];
  /** Bytes that the socket was handed and the kernel has not taken. */
  #writingBytes = 0;
  #isEnding = false;

  constructor(socket: TLSSocket) {
    this.#socket = socket;
  }

  get isSending(): boolean {
    return this.#writingBytes > 0;
  }

  /** The client takes less than is written. */
  get needsDrain(): boolean {
    return this.#waiting.length > 0 || this.#socket.writableNeedDrain;
  }

  onceDrained(drained: () => void): void {
    this.#drained.push(drained);
  }

  /** Calls `taken` when the kernel has the bytes, or when the socket is gone. */
  write(bytes: Uint8Array, taken?: () => void): void {
    this.#waiting.push({ bytes, position: 0, taken });
    this.#writeWaiting();
  }

  /** Says goodbye behind everything that was written. */
  end(): void {
    this.#isEnding = true;
    this.#endWhenWritten();
  }

  #writeWaiting(): void {
    for (let next = this.#waiting[0]; next !== undefined; next = this.#waiting[0]) {
      const { bytes, position, taken } = next;
      const length = Math.min(bytes.length - position, PIECE_BYTES_MAX);
      if (this.#writingBytes >= TLS_WRITING_BYTES_MAX) {
        return;
      }
      next.position += length;
      const isLast = next.position === bytes.length;
      if (isLast) {
        this.#waiting.shift();
      }
      this.#writingBytes += length;
      // Called with an error, too, when the socket is gone: then all that waits goes the same way.
      this.#socket.write(bytes.subarray(position, position + length), () => {
        this.#written(length, isLast ? taken : undefined);
      });
    }
  }

  #written(length: number, taken: (() => void) | undefined): void {
    this.#writingBytes -= length;
    taken?.();
    this.#writeWaiting();
    this.#endWhenWritten();
    if (this.#writingBytes === 0) {
      for (const drained of this.#drained.splice(0)) {
        drained();
      }
    }
  }

  #endWhenWritten(): void {
    if (this.#isEnding && this.#waiting.length === 0) {
      this.#socket.end();
    }
  }
}
