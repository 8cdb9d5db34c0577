/** The writing half of a socket: remembers what it was given and takes it when the test says so. */
import type { ReplySink } from '../../src/server/reply-writer.ts';

export interface SocketWrite {
  /** As the bytes were at the time of the write. */
  readonly bytes: Buffer;
  /** As they are now: they must not change before `done`. */
  readonly live: Uint8Array;
  done(): void;
}

export class FakeSocket {
  readonly writes: SocketWrite[] = [];
  /** What the writer is told. */
  needsDrain = false;
  writeBytesMax = 128 * 1024;
  readonly #takesAtOnce: boolean;

  constructor(takesAtOnce = false) {
    this.#takesAtOnce = takesAtOnce;
  }

  /** As the code under test wants it. */
  get asSink(): ReplySink {
    return this;
  }

  /** Everything written so far. */
  get bytes(): Buffer {
    return Buffer.concat(this.writes.map(({ bytes }) => bytes));
  }

  sendsFile(): boolean {
    return false;
  }

  writeFile(): void {
    throw new Error('Bug: a file is sent to a socket that cannot send files');
  }

  sendsMemory(): boolean {
    return false;
  }

  writeMemory(): void {
    throw new Error('Bug: memory is sent to a socket that takes none');
  }

  write(live: Uint8Array, taken: () => void): boolean {
    let isDone = false;
    const done = (): void => {
      if (isDone) throw new Error('Bug of the test: a write was taken twice');
      isDone = true;
      taken();
    };
    this.writes.push({ bytes: Buffer.from(live), live, done });
    if (this.#takesAtOnce) queueMicrotask(done);
    return true;
  }
}
