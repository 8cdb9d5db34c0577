/** What a request costs of the byte budget (inflight-budget.ts). */
import { EXTENT_COUNT_MAX } from '../limits.ts';
import { NBD_CMD_BLOCK_STATUS, NBD_CMD_READ, NBD_CMD_WRITE } from '../protocol/constants.ts';
import type { Request } from '../protocol/request.ts';

/** The longest BLOCK_STATUS reply: 16 bytes (extended) for each of the most extents, in two contexts. */
const STATUS_REPLY_BYTES_MAX = 2 * 16 * EXTENT_COUNT_MAX;

/** Bytes that a request is charged for while it is in flight. */
export function inflightBytes(request: Request): number {
  switch (request.type) {
    case NBD_CMD_READ:
    case NBD_CMD_WRITE:
      return request.length;
    case NBD_CMD_BLOCK_STATUS:
      return STATUS_REPLY_BYTES_MAX;
    default:
      return 0;
  }
}
