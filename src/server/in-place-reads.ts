/** Long READs whose data is sent from where it is, without a copy of ours: from memory, or from the page cache. */
import type { Handle } from '../plugins/plugin.ts';
import type { ReplyForm } from '../protocol/reply.ts';
import type { Request } from '../protocol/request.ts';
import type { BufferPool } from './buffer-pool.ts';
import { FileReads } from './file-reads.ts';
import { MemoryReads } from './memory-reads.ts';
import type { ReplyWriter } from './reply-writer.ts';

export class InPlaceReads {
  readonly #memoryReads: MemoryReads;
  readonly #fileReads: FileReads;

  constructor(handle: Handle, writer: ReplyWriter, pool: BufferPool, form: ReplyForm) {
    this.#memoryReads = new MemoryReads(handle, writer, form);
    this.#fileReads = new FileReads(handle, writer, pool, form);
  }

  /** See FileReads.send. */
  send(request: Request, sent: (isWhole: boolean, error?: unknown) => void): boolean {
    return this.#memoryReads.send(request, () => sent(true)) || this.#fileReads.send(request, sent);
  }
}
