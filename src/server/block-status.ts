/**
 * BLOCK_STATUS: asks the handle for every context that is wanted, and encodes the answer. Answers of a fragmented file
 * have thousands of extents, and pipelined requests tend to be ready together: each takes its turn (plugins/turns.ts), or
 * other clients would wait for all of them.
 */
import { EXTENT_COUNT_MAX } from '../limits.ts';
import { ALLOCATION_CONTEXT, type Extent, type Handle } from '../plugins/plugin.ts';
import { extentTurns } from '../plugins/turns.ts';
import { NBD_CMD_FLAG_REQ_ONE, NBD_STATE_HOLE, NBD_STATE_ZERO } from '../protocol/constants.ts';
import type { MetaContext } from '../protocol/options/meta-context.ts';
import { type ChunkForm, encodeBlockStatus, type StatusExtent } from '../protocol/reply.ts';
import type { Request } from '../protocol/request.ts';

/** The longest reply: 16 bytes (extended) for each of the most extents, in two contexts. */
export const STATUS_REPLY_BYTES_MAX = 2 * 16 * EXTENT_COUNT_MAX;

export class BlockStatus {
  readonly #handle: Handle;
  readonly #contexts: readonly MetaContext[];
  readonly #form: ChunkForm;

  constructor(handle: Handle, contexts: readonly MetaContext[], form: ChunkForm) {
    this.#handle = handle;
    this.#contexts = contexts;
    this.#form = form;
  }

  /** The whole reply to a request, which must stay as it is. */
  async answer(request: Request): Promise<Uint8Array> {
    const wanted = request.contextIds;
    const contexts = this.#contexts.filter(({ id }) => wanted === undefined || wanted.includes(id));
    const searchTurn = extentTurns.take();
    if (searchTurn !== undefined) {
      // Some handles find their extents in the very call.
      await searchTurn;
    }
    const found = await Promise.all(contexts.map(({ name }) => this.#find(name, request)));
    const encodingTurn = extentTurns.take();
    if (encodingTurn !== undefined) {
      await encodingTurn;
    }
    const statuses = contexts.map(({ id }, index) => ({ id, extents: found[index]?.() ?? [] }));
    return encodeBlockStatus(this.#form, request, statuses, request.length, isRequestOne(request));
  }

  /** What the handle says of a context; it is put into the protocol's form only in the turn that encodes it. */
  async #find(context: string, request: Request): Promise<() => readonly StatusExtent[]> {
    const { offset, length } = request;
    if (context === ALLOCATION_CONTEXT) {
      const extents = await this.#handle.extents(offset, length, isRequestOne(request));
      return () => extents.slice(0, EXTENT_COUNT_MAX).map(toStatusExtent);
    }
    const statuses = await this.#handle.contextExtents?.(context, offset, length, isRequestOne(request));
    if (statuses === undefined) {
      throw new Error(`Bug: the plugin offers the meta context ${context} and knows nothing of it`);
    }
    return () => statuses.slice(0, EXTENT_COUNT_MAX);
  }
}

function isRequestOne({ flags }: Request): boolean {
  return (flags & NBD_CMD_FLAG_REQ_ONE) !== 0;
}

function toStatusExtent({ length, isHole, isZero }: Extent): StatusExtent {
  return { length, status: (isHole ? NBD_STATE_HOLE : 0) | (isZero ? NBD_STATE_ZERO : 0) };
}
