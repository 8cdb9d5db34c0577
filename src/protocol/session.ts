/**
 * One NBD session as a pure state machine, from the greeting to the last request: bytes in, steps out. It
 * knows nothing of sockets, files, time or promises; `server/connection.ts` drives it.
 *
 * The driver sends `greeting()`, hands over bytes with `receive` and then calls `next` until that answers
 * `need-input`; only then may it call `receive` again. Each step says what the driver owes before the next
 * call of `next`:
 *
 *   need-input    the next `receive`
 *   output        send `takeOutput()`
 *   find-export   `answerExport` for `exportQuestion`, now or later
 *   list-exports  `answerList`, now or later; asked again until all are given
 *   start-tls     begin TLS on the socket as its server, then `tlsStarted`. The ACK was the `output` before. All
 *                 bytes that arrive meanwhile are TLS's; the next `receive` is for what it has decrypted
 *   payload       `providePayload` with room for `request.length` bytes (a WRITE not wholly in the input); without any
 *                 room the driver puts all of them elsewhere itself, or calls `redirectPayload` before it stops to
 *   request       execute `request`; a WRITE's data is `payload` from `payloadStart` on
 *   refused       send an error reply for `request` because of `refusal` (its payload was skipped)
 *   disconnect    the client said ABORT or DISC: answer what is in flight, then close. Final.
 *   violation     the peer broke the protocol as `violation` says, or must be cut off: close now. Final.
 *
 * Method names: `receive` is input, `next` and `take` are output, `answer`, `provide` and `tlsStarted` are
 * what the driver owes, `shutDown` is a command.
 */
import type { ExportInfo } from './export-info.ts';
import {
  type ExportQuestion,
  type ExportRefusal,
  Handshake,
  type Negotiated,
  type TlsMode,
} from './handshake.ts';
import { Input } from './input.ts';
import { encodeGreeting } from './options/frame.ts';
import type { ListedExport } from './options/list.ts';
import { EXTENDED_REQUEST_HEADER_BYTES, type Request } from './request.ts';
import type { Refusal } from './request-rules.ts';
import { Transmission } from './transmission.ts';
import type { Violation } from './violation.ts';

export type SessionStep =
  | 'need-input'
  | 'output'
  | 'find-export'
  | 'list-exports'
  | 'start-tls'
  | 'payload'
  | 'request'
  | 'refused'
  | 'disconnect'
  | 'violation';

export interface SessionOptions {
  /** Default: `off`. */
  readonly tls?: TlsMode;
}

export class Session {
  // The longest fixed header is an extended request's.
  readonly #input = new Input(EXTENDED_REQUEST_HEADER_BYTES);
  readonly #handshake: Handshake;
  #transmission: Transmission | undefined;
  #isShuttingDown = false;

  constructor({ tls = 'off' }: SessionOptions = {}) {
    this.#handshake = new Handshake(this.#input, tls);
  }

  /** The bytes that open the session. */
  greeting(): Uint8Array {
    return encodeGreeting();
  }

  /** Set once transmission has begun. */
  get negotiated(): Negotiated | undefined {
    return this.#handshake.negotiated;
  }

  /** Valid at `find-export`. */
  get exportQuestion(): ExportQuestion {
    return this.#handshake.question;
  }

  /** Set at `violation`. */
  get violation(): Violation | undefined {
    return this.#transmission?.violation ?? this.#handshake.violation;
  }

  /** Valid at `payload`, `request` and `refused`, until the next call of `next`, which reuses it. */
  get request(): Request {
    return this.#transmitting().request;
  }

  /** Valid at `refused`. */
  get refusal(): Refusal {
    return this.#transmitting().refusal;
  }

  /** Valid at `request` for a WRITE: the array that holds the data, from `payloadStart` on. */
  get payload(): Uint8Array {
    return this.#transmitting().payload;
  }

  get payloadStart(): number {
    return this.#transmitting().payloadStart;
  }

  /** True when the WRITE's data lies in the array of the last `receive`, which the driver will reuse. */
  get isPayloadBorrowed(): boolean {
    return this.#transmitting().isPayloadBorrowed;
  }

  /** From now on options are answered ERR_SHUTDOWN and requests refused with ESHUTDOWN. */
  shutDown(): void {
    this.#isShuttingDown = true;
    this.#handshake.shutDown();
    this.#transmission?.shutDown();
  }

  /** Hands over `bytes` from 0 to `length`; the array must stay as it is until the next `need-input`. */
  receive(bytes: Uint8Array, length: number): void {
    this.#input.receive(bytes, length);
  }

  takeOutput(): Uint8Array[] {
    return this.#handshake.takeOutput();
  }

  next(): SessionStep {
    for (;;) {
      if (this.#transmission === undefined && this.#handshake.hasOutput) {
        return 'output';
      }
      this.#beginTransmission();
      const step = (this.#transmission ?? this.#handshake).advance();
      if (step !== undefined) {
        return step;
      }
    }
  }

  /** The export that `exportQuestion` asked for, or why there is none. */
  answerExport(answer: ExportInfo | ExportRefusal): void {
    this.#handshake.answerExport(answer);
  }

  /** All exports, or the next ones of many: `isLast` when no more will follow. */
  answerList(exports: readonly ListedExport[], isLast = true): void {
    this.#handshake.answerList(exports, isLast);
  }

  /** TLS is up, after `start-tls`. Structured replies and all else that was negotiated is forgotten. */
  tlsStarted(): void {
    this.#handshake.tlsStarted();
  }

  /** Room for the payload at `payload`: `buffer` from `start` on, for `request.length` bytes; or an empty one (see above). */
  providePayload(buffer: Uint8Array, start: number): void {
    this.#transmitting().providePayload(buffer, start);
  }

  /**
   * At `need-input`: bytes of a WRITE's payload that are still to come, 0 when a header is. The driver may put
   * some of them into `payload` at `payloadPosition` itself, and says so with `payloadReceived`.
   */
  get payloadMissing(): number {
    return this.#transmission?.payloadMissing ?? 0;
  }

  get payloadPosition(): number {
    return this.#transmitting().payloadPosition;
  }

  /** At `need-input`, in transmission: the next bytes belong to the header of a request. */
  get isAwaitingHeader(): boolean {
    return this.#transmission?.isAwaitingHeader === true;
  }

  /** `count` bytes of the payload, at most `payloadMissing`, are where they belong. */
  payloadReceived(count: number): void {
    this.#transmitting().payloadReceived(count);
  }

  /** At `payload`: all of it is still to come. */
  get isPayloadUntouched(): boolean {
    return this.#transmitting().isPayloadUntouched;
  }

  /** At `need-input`: what is still to come of the payload goes to `buffer`, to the same places from its start on. */
  redirectPayload(buffer: Uint8Array): void {
    this.#transmitting().redirectPayload(buffer);
  }

  /** Bytes of a request's header. */
  get headerBytes(): number {
    return this.#transmitting().headerBytes;
  }

  #beginTransmission(): void {
    if (this.#transmission === undefined && this.negotiated !== undefined) {
      this.#transmission = new Transmission(this.#input, this.negotiated);
      if (this.#isShuttingDown) {
        this.#transmission.shutDown();
      }
    }
  }

  #transmitting(): Transmission {
    if (this.#transmission === undefined) {
      throw new Error('Bug: the session is not in transmission');
    }
    return this.#transmission;
  }
}
