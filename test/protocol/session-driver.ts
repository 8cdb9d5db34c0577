/**
 * Drives a Session as server/connection.ts does, without sockets: bytes in, in any split; a log of what came
 * out. The log leaves out `need-input` and `payload`, which depend on the split, so that the logs of two
 * splits of the same bytes must be equal.
 */
import type { ExportInfo } from '../../src/protocol/export-info.ts';
import type { ExportRefusal, TlsMode } from '../../src/protocol/handshake.ts';
import type { ListedExport } from '../../src/protocol/options/list.ts';
import { Session, type SessionStep } from '../../src/protocol/session.ts';
import { toHex } from './bytes.ts';
import { decodeOptionReplies, type OptionReply } from './naive-client.ts';

export interface LoggedRequest {
  readonly type: number;
  readonly flags: number;
  /** 16 hexadecimal digits. */
  readonly cookie: string;
  readonly offset: number;
  readonly length: number;
}

export type LogEntry =
  | { readonly step: 'output'; readonly hex: string }
  | { readonly step: 'find-export'; readonly exportName: string; readonly purpose: 'open' | 'describe' }
  | { readonly step: 'list-exports' }
  | { readonly step: 'start-tls' }
  | ({ readonly step: 'request'; readonly data?: string } & LoggedRequest)
  | ({ readonly step: 'refused'; readonly errno: number } & LoggedRequest)
  | { readonly step: 'disconnect' }
  | { readonly step: 'violation'; readonly code: string };

export interface DriverOptions {
  readonly exports?: readonly ExportInfo[];
  readonly listed?: readonly ListedExport[];
  /** Stop at `find-export` instead of answering; the test goes on with `answerExport` and `drain`. */
  readonly isAnsweringLater?: boolean;
  readonly tls?: TlsMode;
}

const UNKNOWN: ExportRefusal = { type: 0x80000006, message: 'No such export' };
/** What the receive buffer is overwritten with: a session that keeps borrowed bytes shows it. */
const POISON = 0xee;

export class SessionDriver {
  readonly session: Session;
  readonly log: LogEntry[] = [];
  /** WRITEs whose data lay in the receive buffer. */
  borrowedCount = 0;
  /** A final step was reached. */
  isOver = false;
  readonly #options: DriverOptions;

  constructor(options: DriverOptions = {}) {
    this.#options = options;
    this.session = new Session({ tls: options.tls ?? 'off' });
  }

  /** The driver's part of STARTTLS. */
  startTls(): this {
    this.session.tlsStarted();
    this.drain();
    return this;
  }

  /** Hands over each chunk in turn, in a buffer that is poisoned once the session has used it up. */
  feed(...chunks: readonly Uint8Array[]): this {
    for (const chunk of chunks) {
      if (this.isOver) return this;
      const buffer = new Uint8Array(chunk.length + 16).fill(POISON);
      buffer.set(chunk);
      this.session.receive(buffer, chunk.length);
      if (this.drain(2 * chunk.length + 16)) buffer.fill(POISON);
    }
    return this;
  }

  feedByteByByte(bytes: Uint8Array): this {
    for (const byte of bytes) this.feed(Uint8Array.of(byte));
    return this;
  }

  /**
   * Calls `next` until it needs more than an answer, never more often than `stepsMax`, or it loops. True
   * when all input is used up.
   */
  drain(stepsMax = 1000): boolean {
    for (let steps = 0; steps < stepsMax; steps += 1) {
      const step = this.session.next();
      if (step === 'need-input') return true;
      if (step === 'find-export' && this.#options.isAnsweringLater === true) return false;
      if (step === 'start-tls') {
        this.log.push({ step });
        return false;
      }
      this.#serve(step);
      if (this.isOver) return true;
    }
    throw new Error(`The session did not come to rest within ${stepsMax} steps`);
  }

  answerExport(answer: ExportInfo | ExportRefusal): void {
    this.session.answerExport(answer);
    this.drain();
  }

  get steps(): string[] {
    return this.log.map(({ step }) => step);
  }

  /** Everything that was sent, in hexadecimal. */
  get outputHex(): string {
    return this.log.map((entry) => (entry.step === 'output' ? entry.hex : '')).join('');
  }

  /** Everything that was sent, as option replies. */
  get optionReplies(): OptionReply[] {
    return decodeOptionReplies(Uint8Array.from(Buffer.from(this.outputHex, 'hex')));
  }

  /** The types of the option replies. */
  get replyTypes(): number[] {
    return this.optionReplies.map(({ type }) => type);
  }

  #serve(step: SessionStep): void {
    const { session } = this;
    switch (step) {
      case 'output':
        this.log.push({ step, hex: session.takeOutput().map(toHex).join('') });
        return;
      case 'find-export': {
        const { exportName, purpose } = session.exportQuestion;
        this.log.push({ step, exportName, purpose });
        session.answerExport(this.#options.exports?.find(({ name }) => name === exportName) ?? UNKNOWN);
        return;
      }
      case 'list-exports':
        this.log.push({ step });
        session.answerList(this.#options.listed ?? this.#options.exports ?? []);
        return;
      case 'payload':
        // Not at the start of the buffer, as in a pooled reply buffer.
        session.providePayload(new Uint8Array(session.request.length + 7), 7);
        return;
      case 'request': {
        const logged = this.#request();
        if (logged.type !== 1) {
          this.log.push({ step, ...logged });
          return;
        }
        if (session.isPayloadBorrowed) this.borrowedCount += 1;
        const start = session.payloadStart;
        this.log.push({
          step,
          ...logged,
          data: toHex(session.payload.subarray(start, start + logged.length)),
        });
        return;
      }
      case 'refused':
        this.log.push({ step, ...this.#request(), errno: session.refusal.errno });
        return;
      case 'disconnect':
        this.log.push({ step });
        this.isOver = true;
        return;
      case 'violation':
        this.log.push({ step, code: session.violation?.code ?? 'none' });
        this.isOver = true;
        return;
      case 'start-tls':
      case 'need-input':
        return;
    }
  }

  #request(): LoggedRequest {
    const { type, flags, cookieHigh, cookieLow, offset, length } = this.session.request;
    const cookie = [cookieHigh, cookieLow].map((word) => word.toString(16).padStart(8, '0')).join('');
    return { type, flags, cookie, offset, length };
  }
}

/** `bytes` cut behind each of `cuts`, which need not be in order nor different. */
export function split(bytes: Uint8Array, cuts: readonly number[]): Uint8Array[] {
  const borders = [0, ...cuts.map((cut) => cut % (bytes.length + 1)), bytes.length].sort((a, b) => a - b);
  return borders.slice(1).map((end, index) => bytes.subarray(borders[index], end));
}
