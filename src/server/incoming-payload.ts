/** The payload of a WRITE while it comes in: into a buffer of the pool, or to the file it is for, or one after the other. */
import type { Handle, IncomingWrite } from '../plugins/plugin.ts';
import type { Request } from '../protocol/request.ts';
import type { Session } from '../protocol/session.ts';
import type { BufferPool } from './buffer-pool.ts';
import type { Transport } from './transport.ts';

/**
 * The rest of a payload is received where it belongs from so many bytes on, without a copy in between. Below, the
 * copy is cheaper than setting that up.
 */
const EXPECTED_BYTES_MIN = 16 * 1024;

/** After a payload as long as this the next header is received alone: another one that follows it can go to a file. */
const LONG_PAYLOAD_BYTES_MIN = 128 * 1024;

const NO_BUFFER = new Uint8Array(0);

export class IncomingPayload {
  /** Of the request. */
  readonly length: number;
  readonly #offset: number;
  readonly #pool: BufferPool;
  readonly #write: IncomingWrite | undefined;
  #isInFile: boolean;
  /** Bytes at its beginning that are in the file. */
  #fileBytes = 0;
  /** Undefined while, and when, all of it went to the file. */
  #buffer: Uint8Array | undefined;
  #error: unknown;

  /** At the session's step `payload`. */
  constructor(session: Session, handle: Handle | undefined, transport: Transport, pool: BufferPool) {
    const { offset, length } = session.request;
    this.length = length;
    this.#offset = offset;
    this.#pool = pool;
    const canBeInFile = transport.canReceiveInFile && session.isPayloadUntouched;
    this.#write = canBeInFile ? handle?.receiveWrite?.(offset, length) : undefined;
    this.#isInFile = this.#write !== undefined;
    this.#buffer = this.#isInFile ? undefined : pool.acquire(length);
    session.providePayload(this.#buffer ?? NO_BUFFER, 0);
  }

  /** Some of it may be in the file: `finish` does what is left. Otherwise all of it is in the session's buffer. */
  get isForFile(): boolean {
    return this.#write !== undefined;
  }

  /** Tells the transport where the bytes that are still to come belong; false when they come as all others do. */
  expect(session: Session, transport: Transport): boolean {
    const { payloadMissing } = session;
    if (this.#isInFile && this.#write !== undefined) {
      if (transport.expectInFile(this.#write, this.#offset + this.#fileBytes, payloadMissing)) {
        return true;
      }
      this.#leaveFile(session, transport);
    }
    if (payloadMissing < EXPECTED_BYTES_MIN) {
      return false;
    }
    transport.expect(session.payload, session.payloadPosition, payloadMissing);
    return true;
  }

  /** `count` bytes are where `expect` has told. */
  received(count: number, session: Session, transport: Transport): void {
    session.payloadReceived(count);
    if (!this.#isInFile) {
      return;
    }
    this.#fileBytes += count;
    let goesOn = false;
    try {
      goesOn = this.#write?.wrote(transport.fileOutcome) === true;
    } catch (error) {
      this.#error = error;
    }
    if (!goesOn && session.payloadMissing > 0) {
      this.#leaveFile(session, transport);
    }
  }

  /**
   * Writes what is not in the file yet: done when this returns nothing. Throws or rejects with a BackendError. `isFua`:
   * durable before it is done. To be called once, when the payload is whole.
   */
  finish({ offset, length }: Request, handle: Handle, isFua: boolean): void | Promise<void> {
    if (this.#error !== undefined) {
      this.release();
      throw this.#error;
    }
    const buffer = this.#buffer;
    if (buffer === undefined) {
      return isFua ? handle.flush() : undefined;
    }
    const done = this.#fileBytes;
    return this.#releaseAfter(() => handle.write(buffer, done, length - done, offset + done, isFua));
  }

  /** Nobody will answer the request, or need its data any more. */
  release(): void {
    if (this.#buffer !== undefined) {
      this.#pool.release(this.#buffer);
      this.#buffer = undefined;
    }
  }

  async #releaseAfter(write: () => void | Promise<void>): Promise<void> {
    try {
      await write();
    } finally {
      this.release();
    }
  }

  /** The rest goes into a buffer, although nobody may want it any more. */
  #leaveFile(session: Session, transport: Transport): void {
    this.#isInFile = false;
    this.#buffer = this.#pool.acquire(this.length);
    session.redirectPayload(this.#buffer);
    const count = transport.leaveFile(this.#buffer, session.payloadPosition, session.payloadMissing);
    session.payloadReceived(count);
  }
}

/** At the step `request`: bytes to be received at a time from now on, 0 for no limit. */
export function receiveLimit({ request, headerBytes }: Session): number {
  return request.payloadLength >= LONG_PAYLOAD_BYTES_MIN ? headerBytes : 0;
}
