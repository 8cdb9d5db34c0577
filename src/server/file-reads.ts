/**
 * Long READs of what is in the page cache, sent from there without a copy of ours (sendfile(2)); on sockets without TLS.
 * The only copy left is the client's: 256 KiB over a Unix socket take 14 us of server time instead of 87 (C loop, 2
 * cores, 2026-11).
 *
 * What of the reply the socket has no room for is sent as it gets some. Once a part of it is gone, the rest of a READ of
 * up to WHOLE_BYTES_MAX is copied, while it is in the cache for sure. Of a longer one it stays where it is; if those pages have left the
 * cache when their turn comes, they are read in the ordinary way, which can fail with the header gone. So there the data
 * is not the last chunk of its reply, and an error chunk can follow (proto.md, "NBD_REPLY_TYPE_ERROR"). A simple reply
 * has no such way: the connection ends. The chunk more costs the client two calls for its header, and 13 to 20 % of the
 * READs of 64 and 256 KiB in a second.
 *
 * The pages are those of the file until the client has received them: a WRITE that arrives before may show in the reply.
 * It overlaps with the READ then, which the protocol leaves without an order.
 */
import type { Handle } from '../plugins/plugin.ts';
import { dataHeaderBytes, putDataHeader, type ReplyForm } from '../protocol/reply.ts';
import type { Request } from '../protocol/request.ts';
import type { BufferPool } from './buffer-pool.ts';
import type { FilePart } from './file-part.ts';
import type { ReplyWriter } from './reply-writer.ts';

/** Longest READ whose data is the last chunk. */
const WHOLE_BYTES_MAX = 256 * 1024;

/** Pages are looked for so far ahead: more than a socket takes at a time. */
const LOOK_BYTES_MAX = 512 * 1024;

/** Longest copy that a handle makes without waiting. */
const COPY_BYTES_MAX = 128 * 1024;

/** Replies in a row of which the kernel sent no data at all: it cannot do it for this file. */
const IN_VAIN_MAX = 4;

export class FileReads {
  readonly #handle: Handle;
  readonly #writer: ReplyWriter;
  readonly #pool: BufferPool;
  readonly #form: ReplyForm;
  readonly #header: Uint8Array;
  #inVain = 0;

  constructor(handle: Handle, writer: ReplyWriter, pool: BufferPool, form: ReplyForm) {
    this.#handle = handle;
    this.#writer = writer;
    this.#pool = pool;
    this.#form = form;
    this.#header = new Uint8Array(dataHeaderBytes(form));
  }

  /**
   * Sends the data of a READ, and calls `sent` when the socket has taken it, before it returns where that is now. With an
   * error the data is not right. `isWhole`: the reply needs no further chunk. False: it cannot be sent so.
   */
  send(request: Request, sent: (isWhole: boolean, error?: unknown) => void): boolean {
    const { offset, length } = request;
    if (this.#inVain === IN_VAIN_MAX || !this.#writer.sendsFile(length)) {
      return false;
    }
    const fd = this.#handle.residentFile?.(offset, Math.min(length, LOOK_BYTES_MAX));
    if (fd === undefined) {
      return false;
    }
    const isWhole = this.#form === 'simple' || length <= WHOLE_BYTES_MAX;
    let failure: unknown;
    let isSent = false;
    let pooled: Uint8Array | undefined;
    const part: FilePart = {
      fd,
      offset,
      length,
      isResident: (position) => {
        const ahead = Math.min(length - position, LOOK_BYTES_MAX);
        return this.#handle.residentFile?.(offset + position, ahead) !== undefined;
      },
      copyRest: (position) => {
        if (length <= WHOLE_BYTES_MAX) {
          pooled = this.#copy(offset + position, length - position);
        }
        return pooled?.subarray(0, length - position);
      },
      readRest: async (position) => {
        this.#inVain = position === 0 ? this.#inVain + 1 : 0;
        const restBytes = length - position;
        const buffer = this.#pool.acquire(restBytes);
        try {
          await this.#handle.read(buffer, 0, restBytes, offset + position);
        } catch (error) {
          if (isWhole) {
            this.#pool.release(buffer);
            throw error;
          }
          failure = error;
          // Not what others have read into it.
          buffer.fill(0);
        }
        if (isSent) {
          // The client has left meanwhile.
          this.#pool.release(buffer);
        } else {
          pooled = buffer;
        }
        return buffer.subarray(0, restBytes);
      },
      failed: (error) => sent(isWhole, error),
      sent: () => {
        isSent = true;
        if (pooled !== undefined) {
          this.#pool.release(pooled);
        }
        sent(isWhole, failure);
      },
    };
    putDataHeader(this.#header, 0, this.#form, request, offset, length, isWhole);
    this.#writer.writeFile(this.#header, part);
    return true;
  }

  /** In a buffer of the pool. */
  #copy(offset: number, length: number): Uint8Array | undefined {
    const bytes = this.#pool.acquire(length);
    for (let position = 0; position < length; position += COPY_BYTES_MAX) {
      const piece = Math.min(length - position, COPY_BYTES_MAX);
      if (this.#handle.readNow?.(bytes, position, piece, offset + position) !== true) {
        this.#pool.release(bytes);
        return undefined;
      }
    }
    return bytes;
  }
}
