/**
 * The handshake as a state machine (proto.md, "Fixed newstyle negotiation"): client flags, then options one
 * by one until an export is opened. option-reader.ts collects the options, negotiation.ts decides on them;
 * here is the order of things. What was agreed on comes out as `negotiated`.
 */
import {
  NBD_FLAG_C_FIXED_NEWSTYLE,
  NBD_FLAG_C_NO_ZEROES,
  NBD_OPT_EXPORT_NAME,
  NBD_OPT_LIST,
  NBD_REP_ACK,
} from './constants.ts';
import type { ExportInfo } from './export-info.ts';
import type { Input } from './input.ts';
import {
  type Decision,
  type ExportQuestion,
  type Granted,
  type Negotiated,
  Negotiation,
  type TlsMode,
} from './negotiation.ts';
import { OptionReader } from './option-reader.ts';
import { CLIENT_FLAGS_BYTES, encodeOptionError, encodeOptionReply } from './options/frame.ts';
import { encodeListedExport, type ListedExport } from './options/list.ts';
import { type Violation, violation } from './violation.ts';
import { getU32 } from './wire.ts';

export type { ExportQuestion, Negotiated, TlsMode } from './negotiation.ts';

/** Why the driver cannot give an export; `type` is an NBD_REP_ERR_* value. */
export interface ExportRefusal {
  readonly type: number;
  readonly message: string;
}

export type HandshakeStep =
  | 'need-input'
  | 'find-export'
  | 'list-exports'
  | 'start-tls'
  | 'disconnect'
  | 'violation';

type State = 'client-flags' | 'options' | 'answer-awaited' | 'tls-awaited' | 'aborted' | 'violated';

export class Handshake {
  readonly #input: Input;
  readonly #reader: OptionReader;
  readonly #tls: TlsMode;
  /** Replaced when the client's flags are known. */
  #negotiation: Negotiation;
  #state: State = 'client-flags';
  #output: Uint8Array[] = [];
  #violation: Violation | undefined;
  #negotiated: Negotiated | undefined;
  #isShuttingDown = false;

  /** The option in hand, by number. */
  #option = 0;
  #question: ExportQuestion = { exportName: '', purpose: 'describe' };
  #grant: (info: ExportInfo) => Granted = () => ({ replies: [] });

  constructor(input: Input, tls: TlsMode) {
    this.#input = input;
    this.#reader = new OptionReader(input);
    this.#tls = tls;
    this.#negotiation = new Negotiation(false, true, tls);
  }

  get violation(): Violation | undefined {
    return this.#violation;
  }

  /** Set once an export is open; the handshake is over then. */
  get negotiated(): Negotiated | undefined {
    return this.#negotiated;
  }

  get question(): ExportQuestion {
    return this.#question;
  }

  get hasOutput(): boolean {
    return this.#output.length > 0;
  }

  takeOutput(): Uint8Array[] {
    const output = this.#output;
    this.#output = [];
    return output;
  }

  shutDown(): void {
    this.#isShuttingDown = true;
    this.#negotiation.shutDown();
  }

  /** One transition; undefined to go on. */
  advance(): HandshakeStep | undefined {
    switch (this.#state) {
      case 'client-flags':
        return this.#input.gather(CLIENT_FLAGS_BYTES) ? this.#decideClientFlags() : 'need-input';
      case 'options':
        return this.#readOption();
      case 'answer-awaited':
        return this.#option === NBD_OPT_LIST ? 'list-exports' : 'find-export';
      case 'tls-awaited':
        return this.#refusePlaintext() ? undefined : 'start-tls';
      case 'aborted':
        return 'disconnect';
      case 'violated':
        return 'violation';
    }
  }

  answerExport(answer: ExportInfo | ExportRefusal): void {
    this.#assertAwaited();
    this.#state = 'options';
    if (!('type' in answer)) {
      const { replies, negotiated } = this.#grant(answer);
      this.#output.push(...replies);
      this.#negotiated = negotiated;
    } else if (this.#option === NBD_OPT_EXPORT_NAME) {
      // "NBD_OPT_EXPORT_NAME": there is no error reply; the session must end.
      this.#violate(violation('ERR_NBD_EXPORT_REFUSED', answer.message));
    } else {
      this.#output.push(encodeOptionError(this.#option, answer.type, answer.message));
    }
  }

  answerList(exports: readonly ListedExport[], isLast = true): void {
    this.#assertAwaited();
    for (const listed of exports) {
      this.#output.push(encodeListedExport(listed));
    }
    if (isLast) {
      this.#state = 'options';
      this.#acknowledge();
    }
  }

  /** The driver has TLS up: what follows `start-tls` is encrypted, and the negotiation begins anew. */
  tlsStarted(): void {
    if (this.#state !== 'tls-awaited') {
      throw new Error('Bug: the session awaits no TLS');
    }
    this.#negotiation.tlsStarted();
    this.#state = 'options';
  }

  #decideClientFlags(): undefined {
    const flags = getU32(this.#input.gathered, this.#input.gatheredAt);
    if ((flags & ~(NBD_FLAG_C_FIXED_NEWSTYLE | NBD_FLAG_C_NO_ZEROES)) !== 0) {
      this.#violate(violation('ERR_NBD_CLIENT_FLAGS', `Unknown client flags 0x${flags.toString(16)}`));
      return;
    }
    const isFixedNewstyle = (flags & NBD_FLAG_C_FIXED_NEWSTYLE) !== 0;
    const isPadded = (flags & NBD_FLAG_C_NO_ZEROES) === 0;
    this.#negotiation = new Negotiation(isFixedNewstyle, isPadded, this.#tls);
    if (this.#isShuttingDown) {
      this.#negotiation.shutDown();
    }
    this.#state = 'options';
  }

  #readOption(): 'need-input' | undefined {
    const option = this.#reader.read();
    if (option === 'need-input') {
      return option;
    }
    if ('code' in option) {
      this.#violate(option);
    } else {
      this.#option = option.number;
      this.#carryOut(this.#negotiation.decide(option));
    }
    return undefined;
  }

  #carryOut(decision: Decision): void {
    switch (decision.kind) {
      case 'acknowledge':
        return this.#acknowledge();
      case 'refuse':
        this.#output.push(encodeOptionError(this.#option, decision.type, decision.message));
        return;
      case 'abort':
        this.#acknowledge();
        this.#state = 'aborted';
        return;
      case 'list':
        this.#state = 'answer-awaited';
        return;
      case 'ask':
        this.#question = decision.question;
        this.#grant = decision.grant;
        this.#state = 'answer-awaited';
        return;
      case 'start-tls':
        if (!this.#refusePlaintext()) {
          this.#acknowledge();
          this.#state = 'tls-awaited';
        }
        return;
      case 'violate':
        return this.#violate(decision.violation);
    }
  }

  /**
   * A client waits for the ACK of its STARTTLS before it says more. Plaintext behind it was injected by someone
   * in between, to be taken for part of the encrypted session.
   */
  #refusePlaintext(): boolean {
    const { available } = this.#input;
    if (available > 0) {
      const message = `${available} bytes of plaintext behind STARTTLS`;
      this.#violate(violation('ERR_NBD_PLAINTEXT_AFTER_STARTTLS', message));
    }
    return available > 0;
  }

  #assertAwaited(): void {
    if (this.#state !== 'answer-awaited') {
      throw new Error('Bug: the session awaits no answer');
    }
  }

  #acknowledge(): void {
    this.#output.push(encodeOptionReply(this.#option, NBD_REP_ACK));
  }

  #violate(broken: Violation): void {
    this.#violation = broken;
    this.#state = 'violated';
  }
}
