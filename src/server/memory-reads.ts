/**
 * Long READs of an export that lies in memory, sent from there without a copy of ours. What the socket has no room for waits
 * where it is: a WRITE that arrives before it is sent may show in the reply. It overlaps with the READ then, which the
 * protocol leaves without an order.
 *
 * To copies of ours, over one and four connections at depth 8: 256 KiB READs 1.26 and 1.21 over a Unix socket, 1.08 and 1.29 over
 * TCP; 1 MiB READs 1.17 and 1.07, 1.0 over TCP (2 cores, 2026-11).
 */
import type { Handle } from '../plugins/plugin.ts';
import { dataHeaderBytes, putDataHeader, type ReplyForm } from '../protocol/reply.ts';
import type { Request } from '../protocol/request.ts';
import type { ReplyWriter } from './reply-writer.ts';

export class MemoryReads {
  readonly #handle: Handle;
  readonly #writer: ReplyWriter;
  readonly #form: ReplyForm;
  readonly #header: Uint8Array;

  constructor(handle: Handle, writer: ReplyWriter, form: ReplyForm) {
    this.#handle = handle;
    this.#writer = writer;
    this.#form = form;
    this.#header = new Uint8Array(dataHeaderBytes(form));
  }

  /** As FileReads.send, but for the data, which is always right and whole. */
  send(request: Request, sent: () => void): boolean {
    const { offset, length } = request;
    if (this.#handle.lend === undefined || !this.#writer.sendsMemory(length)) {
      return false;
    }
    const memory = this.#handle.lend(offset, length, 'read');
    if (memory === undefined) {
      return false;
    }
    putDataHeader(this.#header, 0, this.#form, request, offset, length);
    this.#writer.writeMemory(this.#header, memory, () => {
      memory.giveBack();
      sent();
    });
    return true;
  }
}
