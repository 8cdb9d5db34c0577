/**
 * Transmission as a state machine (proto.md, "Transmission"): request headers, the verdict on each, and the
 * payloads: of WRITE, and with extended headers of BLOCK_STATUS. A refused payload is skipped, never stored.
 */
import { PAYLOAD_BYTES_MAX } from '../limits.ts';
import { NBD_CMD_DISC, NBD_CMD_WRITE, NBD_EXTENDED_REQUEST_MAGIC, NBD_REQUEST_MAGIC } from './constants.ts';
import { transmissionFlags } from './export-info.ts';
import type { Negotiated } from './handshake.ts';
import type { Input } from './input.ts';
import {
  decodeExtendedRequest,
  decodeRequest,
  decodeStatusFilter,
  EXTENDED_REQUEST_HEADER_BYTES,
  emptyRequest,
  REQUEST_HEADER_BYTES,
  REQUEST_MAGIC_BYTES,
  type Request,
} from './request.ts';
import {
  judgeRequest,
  judgeStatusFilter,
  type Refusal,
  type RequestContext,
  SHUTTING_DOWN,
} from './request-rules.ts';
import { type Violation, violation } from './violation.ts';
import { getU32 } from './wire.ts';

export type TransmissionStep = 'need-input' | 'payload' | 'request' | 'refused' | 'disconnect' | 'violation';

type State =
  | 'header'
  | 'payload-awaited'
  | 'payload'
  | 'payload-skip'
  | 'filter'
  | 'disconnected'
  | 'violated';

export class Transmission {
  readonly request: Request = emptyRequest();
  /** For a WRITE: the array that holds the data from `payloadStart` on. */
  payload: Uint8Array = new Uint8Array(0);
  payloadStart = 0;

  /** Of a request. */
  readonly headerBytes: number;

  readonly #input: Input;
  readonly #magic: number;
  readonly #decode: typeof decodeRequest;
  readonly #context: RequestContext;
  #state: State = 'header';
  #isShuttingDown = false;
  #refusal: Refusal | undefined;
  #violation: Violation | undefined;
  /** The payload of a BLOCK_STATUS. */
  #filter: Uint8Array = new Uint8Array(0);
  /** Bytes of the payload that are stored or skipped. */
  #payloadDone = 0;

  constructor(input: Input, negotiated: Negotiated) {
    const { info, replyForm, metaContexts } = negotiated;
    const isExtended = replyForm === 'extended';
    this.#input = input;
    this.headerBytes = isExtended ? EXTENDED_REQUEST_HEADER_BYTES : REQUEST_HEADER_BYTES;
    this.#magic = isExtended ? NBD_EXTENDED_REQUEST_MAGIC : NBD_REQUEST_MAGIC;
    this.#decode = isExtended ? decodeExtendedRequest : decodeRequest;
    this.#context = {
      advertised: transmissionFlags(info, replyForm, metaContexts.length > 0),
      size: info.size,
      blockBytesMin: info.blockSize.minimum,
      isExtended,
      contextIds: metaContexts.map(({ id }) => id),
    };
  }

  /** Valid at `refused`. */
  get refusal(): Refusal {
    if (this.#refusal === undefined) {
      throw new Error('Bug: the request is not refused');
    }
    return this.#refusal;
  }

  get violation(): Violation | undefined {
    return this.#violation;
  }

  /** True when the WRITE's data lies in the input's borrowed array. */
  get isPayloadBorrowed(): boolean {
    return this.payload === this.#input.bytes;
  }

  /** At `payload`: nothing of it was received together with its header. */
  get isPayloadUntouched(): boolean {
    return this.#input.available === 0;
  }

  /** At `need-input`: the next bytes belong to a header. */
  get isAwaitingHeader(): boolean {
    return this.#state === 'header';
  }

  /** Bytes of the payload that are still to come, after `providePayload`. */
  get payloadMissing(): number {
    return this.#state === 'payload' ? this.request.payloadLength - this.#payloadDone : 0;
  }

  /** Where the next byte of the payload belongs. */
  get payloadPosition(): number {
    return this.payloadStart + this.#payloadDone;
  }

  payloadReceived(count: number): void {
    this.#payloadDone += count;
  }

  shutDown(): void {
    this.#isShuttingDown = true;
  }

  providePayload(buffer: Uint8Array, start: number): void {
    this.payload = buffer;
    this.payloadStart = start;
    this.#payloadDone = 0;
    this.#state = 'payload';
  }

  /** What is still to come of the payload goes to another buffer, to the same places in it. */
  redirectPayload(buffer: Uint8Array): void {
    this.payload = buffer;
    this.payloadStart = 0;
  }

  /** One transition; undefined to go on. */
  advance(): TransmissionStep | undefined {
    switch (this.#state) {
      case 'header':
        return this.#input.gather(this.headerBytes) ? this.#beginRequest() : this.#awaitHeader();
      case 'payload-awaited':
        return 'payload';
      case 'payload':
        this.#payloadDone += this.#input.copyInto(
          this.payload,
          this.payloadStart + this.#payloadDone,
          this.request.payloadLength - this.#payloadDone,
        );
        return this.#endPayload('request');
      case 'payload-skip':
        this.#payloadDone += this.#input.skip(this.request.payloadLength - this.#payloadDone);
        return this.#endPayload('refused');
      case 'filter':
        return this.#fillFilter();
      case 'disconnected':
        return 'disconnect';
      case 'violated':
        return 'violation';
    }
  }

  /**
   * A client that negotiated extended headers and sends compact ones waits after 28 bytes for its reply, and the server
   * would wait for four more: the magic tells before the header is whole.
   */
  #awaitHeader(): TransmissionStep | undefined {
    const { carried, carry } = this.#input;
    if (carried >= REQUEST_MAGIC_BYTES && getU32(carry, 0) !== this.#magic) {
      return this.#violateMagic();
    }
    return 'need-input';
  }

  #beginRequest(): TransmissionStep | undefined {
    const request = this.request;
    if (!this.#decode(this.#input.gathered, this.#input.gatheredAt, request)) {
      return this.#violateMagic();
    }
    if (request.type === NBD_CMD_DISC) {
      this.#state = 'disconnected';
      return undefined;
    }
    // A compact WRITE is drained instead: it ends within 4 GiB.
    if (this.#context.isExtended && request.payloadLength > PAYLOAD_BYTES_MAX) {
      return this.#violate('ERR_NBD_PAYLOAD_FLOOD', `A payload of ${request.payloadLength} bytes`);
    }
    this.#refusal = this.#isShuttingDown ? SHUTTING_DOWN : judgeRequest(request, this.#context);
    this.#payloadDone = 0;
    if (this.#refusal !== undefined) {
      if (request.payloadLength === 0) {
        return 'refused';
      }
      this.#state = 'payload-skip';
      return undefined;
    }
    if (request.type === NBD_CMD_WRITE) {
      return this.#takePayload();
    }
    if (request.payloadLength === 0) {
      return 'request';
    }
    // Small: the rules bound it by the contexts that are selected.
    this.#filter = new Uint8Array(request.payloadLength);
    this.#state = 'filter';
    return undefined;
  }

  #takePayload(): 'request' | undefined {
    const { payloadLength } = this.request;
    if (this.#input.available < payloadLength) {
      this.#state = 'payload-awaited';
      return undefined;
    }
    this.payload = this.#input.bytes;
    this.payloadStart = this.#input.position;
    this.#input.skip(payloadLength);
    return 'request';
  }

  #fillFilter(): TransmissionStep {
    const missing = this.#filter.length - this.#payloadDone;
    this.#payloadDone += this.#input.copyInto(this.#filter, this.#payloadDone, missing);
    if (this.#payloadDone < this.#filter.length) {
      return 'need-input';
    }
    decodeStatusFilter(this.#filter, this.request);
    this.#refusal = judgeStatusFilter(this.request, this.#context);
    this.#state = 'header';
    return this.#refusal === undefined ? 'request' : 'refused';
  }

  #violateMagic(): undefined {
    return this.#violate('ERR_NBD_BAD_MAGIC', 'Wrong request magic');
  }

  #violate(code: Violation['code'], message: string): undefined {
    this.#violation = violation(code, message);
    this.#state = 'violated';
  }

  #endPayload(step: 'request' | 'refused'): TransmissionStep {
    if (this.#payloadDone < this.request.payloadLength) {
      return 'need-input';
    }
    this.#state = 'header';
    return step;
  }
}
