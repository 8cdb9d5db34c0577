/**
 * One client: its transport, its session, and the handle it has open. It drives the session as session.ts
 * prescribes and stops reading whenever a step has to wait: for an export, or for room in the budget.
 */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { LISTED_EXPORTS_PER_TURN } from '../limits.ts';
import type { Logger } from '../log.ts';
import type { ExportSource } from '../plugins/export-source.ts';
import type { Handle } from '../plugins/plugin.ts';
import { NBD_REP_ERR_SHUTDOWN, NBD_REP_ERR_UNKNOWN } from '../protocol/constants.ts';
import type { ExportInfo } from '../protocol/export-info.ts';
import type { ExportRefusal } from '../protocol/handshake.ts';
import type { ListedExport } from '../protocol/options/list.ts';
import { Session } from '../protocol/session.ts';
import type { BufferPool } from './buffer-pool.ts';
import { ConnectionTally } from './connection-tally.ts';
import type { Counters } from './counters.ts';
import { Dispatch } from './dispatch.ts';
import { IncomingPayload, receiveLimit } from './incoming-payload.ts';
import { ConnectionBudget, type ProcessBudget } from './inflight-budget.ts';
import { inflightBytes } from './inflight-bytes.ts';
import { ReplyWriter } from './reply-writer.ts';
import type { PayloadReceiver } from './stalled-payloads.ts';
import type { TlsSetup } from './tls.ts';
import { LINGER_MS, Transport } from './transport.ts';

type RequestStep = 'payload' | 'request' | 'refused';

/** What all connections of a server share. */
export interface ConnectionContext {
  readonly registry: ExportSource;
  readonly pool: BufferPool;
  readonly budget: ProcessBudget;
  readonly log: Logger;
  readonly counters: Counters;
  readonly handshakeSeconds: number;
  /** Undefined: TLS is off. */
  readonly tls: TlsSetup | undefined;
}

export class Connection implements PayloadReceiver {
  /** Resolves when the socket is gone, nothing is in flight and the handle is closed. Never rejects. */
  readonly closed: Promise<void>;
  receivedBytes = 0;

  readonly #context: ConnectionContext;
  readonly #log: Logger;
  readonly #transport: Transport;
  readonly #session: Session;
  readonly #budget: ConnectionBudget;
  readonly #writer: ReplyWriter;
  readonly #tally: ConnectionTally;
  readonly #deadline: NodeJS.Timeout;
  #handle: Handle | undefined;
  #dispatch: Dispatch | undefined;
  /** An export is being looked up or opened. */
  #isAnswering = false;
  /** What the LIST in hand has still to answer. */
  #unlisted: readonly ListedExport[] | undefined;
  /** A step that waits for room in the budget. */
  #heldStep: RequestStep | undefined;
  /** Of a WRITE that is still coming in; it is charged to the budget. */
  #payload: IncomingPayload | undefined;
  /** One side has said goodbye: the socket ends when nothing is in flight. */
  #isEnding = false;
  /** Within `#pump`, which goes round again when it is woken meanwhile. */
  #isPumping = false;
  #isWoken = false;
  #isEnded = false;
  #isShuttingDown = false;
  #isClosed = false;
  #isFinished = false;
  #linger: NodeJS.Timeout | undefined;
  #resolveClosed: () => void = () => {};

  /** Takes over the connected descriptor `fd`. */
  constructor(fd: number, context: ConnectionContext, log: Logger) {
    this.#context = context;
    this.#log = log;
    this.#tally = new ConnectionTally(context.counters);
    this.#session = new Session({ tls: context.tls?.mode ?? 'off' });
    this.closed = new Promise((resolve) => {
      this.#resolveClosed = resolve;
    });
    this.#budget = new ConnectionBudget(context.budget, () => {
      if (this.#heldStep !== undefined) {
        this.#resume();
      }
    });
    this.#transport = new Transport(
      fd,
      {
        received: (bytes, length, expected) => this.#receive(bytes, length, expected),
        // What the client has asked for is still answered.
        ended: () => this.#end(),
        closed: () => this.#onClosed(),
      },
      log,
    );
    this.#writer = new ReplyWriter(this.#transport, context.pool, (bytes, requests) => {
      this.#budget.give(bytes, requests);
      this.#endWhenIdle();
    });
    this.#deadline = setTimeout(() => {
      this.#log.warn({}, `No export was opened within ${context.handshakeSeconds} s; the connection is cut`);
      this.cut();
    }, context.handshakeSeconds * 1000);
    this.#log.info({ client: this.#transport.client }, 'Connection opened');
    this.#transport.write(this.#session.greeting());
  }

  /** An export was opened, now or before. */
  get hasOpened(): boolean {
    return this.#handle !== undefined;
  }

  /** Takes no new requests on; ends when those in flight are answered. Idle connections end at once. */
  shutDown(): void {
    this.#isShuttingDown = true;
    this.#session.shutDown();
    this.#end();
  }

  /** Ends the connection now, whatever is in flight. */
  cut(): void {
    this.#transport.cut();
  }

  stalled(): void {
    const { length } = this.#session.request;
    this.#log.warn({ length }, 'The payload of a WRITE stalls while others wait; the connection is cut');
    this.cut();
  }

  /** Bytes from the socket; false stops reading until `#resume`. */
  #receive(bytes: Uint8Array, length: number, expected: number): boolean {
    if (this.#isEnded) {
      return true;
    }
    this.receivedBytes += length + expected;
    if (expected > 0) {
      this.#payload?.received(expected, this.#session, this.#transport);
    }
    this.#session.receive(bytes, length);
    return this.#pump();
  }

  /** Takes steps until the session needs input (true) or a step has to wait (false). */
  #pump(): boolean {
    let needsInput: boolean;
    this.#isPumping = true;
    do {
      this.#isWoken = false;
      this.#writer.beginBatch();
      needsInput = this.#takeSteps();
      // The socket may take the replies before this returns, and so make room for the step that has to wait.
      this.#writer.endBatch();
    } while (this.#isWoken);
    this.#isPumping = false;
    const isExpected =
      needsInput && !this.#isEnded && this.#payload?.expect(this.#session, this.#transport) === true;
    if (needsInput && !isExpected && !this.#session.isAwaitingHeader) {
      // A payload that is short or refused: the limit is for a header.
      this.#transport.limit(0);
    }
    return needsInput;
  }

  #takeSteps(): boolean {
    while (!this.#isEnded && !this.#transport.isDestroyed && !this.#isAnswering) {
      const step = this.#heldStep ?? this.#session.next();
      this.#heldStep = undefined;
      switch (step) {
        case 'need-input':
          return true;
        case 'output':
          // In one piece: LIST may answer hundreds of replies, and a write of each would hold up others.
          this.#transport.write(Buffer.concat(this.#session.takeOutput()));
          if (this.#transport.needsDrain) {
            // A client that asks and never reads: it is answered further when it has taken this much.
            this.#transport.onceDrained(() => {
              this.#resume();
            });
            return false;
          }
          break;
        case 'list-exports':
          this.#isAnswering = true;
          void this.#answerList();
          return false;
        case 'find-export':
          this.#isAnswering = true;
          void this.#answerExport();
          return false;
        case 'start-tls':
          this.#startTls();
          return false;
        case 'payload':
        case 'request':
        case 'refused':
          if (!this.#take(step)) {
            this.#heldStep = step;
            return false;
          }
          break;
        case 'disconnect':
          this.#end();
          // Reading goes on, so that the client's own end is seen at once; what it still sends counts no more.
          return true;
        case 'violation':
          this.#log.warn({ code: this.#session.violation?.code }, this.#session.violation?.message ?? '');
          this.cut();
          return false;
      }
    }
    return false;
  }

  /** Goes on after a step that had to wait. */
  #resume(): void {
    if (this.#isPumping) {
      this.#isWoken = true;
    } else if (this.#pump() && !this.#isClosed) {
      this.#transport.resume();
    }
  }

  /** One step of a request; false when the budget has no room for it yet. */
  #take(step: RequestStep): boolean {
    const { request } = this.#session;
    const isCharged = step === 'request' && this.#payload !== undefined;
    if (!isCharged && !this.#budget.tryTake(step === 'refused' ? 0 : inflightBytes(request))) {
      return false;
    }
    if (step === 'payload') {
      this.#payload = new IncomingPayload(this.#session, this.#handle, this.#transport, this.#context.pool);
      this.#context.budget.payloads.begin(this);
    } else if (step === 'request') {
      const payload = this.#payload;
      if (payload !== undefined) {
        this.#context.budget.payloads.end(this);
        this.#payload = undefined;
      }
      this.#transport.limit(receiveLimit(this.#session));
      this.#dispatch?.execute(this.#session, payload);
    } else {
      this.#dispatch?.refuse(request, this.#session.refusal);
    }
    return true;
  }

  #startTls(): void {
    const { tls } = this.#context;
    if (tls === undefined) {
      throw new Error('Bug: the session of a server without TLS wants to start it');
    }
    this.#transport.startTls(tls.credentials.context, () => {
      this.#session.tlsStarted();
      this.#resume();
    });
  }

  async #answerList(): Promise<void> {
    const exports = this.#unlisted ?? (await this.#listExports());
    await nextTurn();
    this.#isAnswering = false;
    if (this.#isClosed) {
      return this.#finishWhenIdle();
    }
    const rest = exports.slice(LISTED_EXPORTS_PER_TURN);
    const isLast = rest.length === 0;
    this.#unlisted = isLast ? undefined : rest;
    this.#session.answerList(exports.slice(0, LISTED_EXPORTS_PER_TURN), isLast);
    this.#resume();
    this.#endWhenIdle();
  }

  async #listExports(): Promise<readonly ListedExport[]> {
    try {
      return await this.#context.registry.list();
    } catch (error) {
      this.#log.error({ err: error }, 'The exports cannot be listed');
      return [];
    }
  }

  async #answerExport(): Promise<void> {
    const answer = await this.#findExport();
    this.#isAnswering = false;
    if (this.#isClosed) {
      return this.#finishWhenIdle();
    }
    this.#session.answerExport(answer);
    const { negotiated } = this.#session;
    if (negotiated !== undefined && this.#handle !== undefined) {
      clearTimeout(this.#deadline);
      this.#transport.enlargeBuffer();
      const { pool } = this.#context;
      this.#dispatch = new Dispatch(this.#handle, negotiated, this.#writer, pool, this.#log, this.#tally);
    }
    this.#resume();
    this.#endWhenIdle();
  }

  async #findExport(): Promise<ExportInfo | ExportRefusal> {
    const { exportName, purpose } = this.#session.exportQuestion;
    const { registry } = this.#context;
    if (purpose === 'open' && this.#isEnding) {
      return { type: NBD_REP_ERR_SHUTDOWN, message: 'The server is shutting down' };
    }
    try {
      const info =
        purpose === 'open' ? await this.#openExport(exportName) : await registry.describe(exportName);
      return info ?? { type: NBD_REP_ERR_UNKNOWN, message: `There is no export named "${exportName}"` };
    } catch (error) {
      this.#log.error({ err: error, exportName }, 'The export cannot be opened');
      return { type: NBD_REP_ERR_UNKNOWN, message: `The export "${exportName}" cannot be opened` };
    }
  }

  async #openExport(name: string): Promise<ExportInfo | undefined> {
    const opened = await this.#context.registry.open(name);
    this.#handle = opened?.handle;
    return opened?.info;
  }

  /** Answers what is in flight, then closes. */
  #end(): void {
    this.#isEnding = true;
    clearTimeout(this.#deadline);
    this.#endWhenIdle();
  }

  #endWhenIdle(): void {
    if (this.#isClosed) {
      return this.#finishWhenIdle();
    }
    if (!this.#isEnding || this.#isEnded || this.#isBusy) {
      return;
    }
    this.#isEnded = true;
    if (this.#payload !== undefined) {
      this.#transport.expectNothing();
    }
    this.#transport.limit(0);
    // Read on: to close with unread input is a reset, which replies could be lost in.
    if (this.#isShuttingDown) {
      this.#transport.endAndClose();
    } else {
      this.#transport.end();
      this.#linger = setTimeout(() => {
        this.cut();
      }, LINGER_MS).unref();
    }
    this.#transport.resume();
  }

  get #isBusy(): boolean {
    return this.#isAnswering || this.#budget.requests > (this.#payload === undefined ? 0 : 1);
  }

  #onClosed(): void {
    this.#isClosed = true;
    clearTimeout(this.#deadline);
    clearTimeout(this.#linger);
    this.#writer.close();
    this.#budget.close();
    if (this.#payload !== undefined) {
      // A WRITE whose payload never came in whole, and that nobody will answer: nothing of it was executed, or a part.
      const { length } = this.#payload;
      this.#context.budget.payloads.end(this);
      this.#payload.release();
      this.#payload = undefined;
      this.#budget.give(length, 1);
    }
    this.#finishWhenIdle();
  }

  #finishWhenIdle(): void {
    if (!this.#isBusy && !this.#isFinished) {
      this.#isFinished = true;
      void this.#finish();
    }
  }

  async #finish(): Promise<void> {
    try {
      await this.#handle?.close();
    } catch (error) {
      this.#log.error({ err: error }, 'Closing the export failed');
    }
    this.#log.info(this.#tally.closed(), 'Connection closed');
    this.#resolveClosed();
  }
}
