/** What a request costs of the byte budget (inflight-budget.ts). */
import { NBD_CMD_BLOCK_STATUS, NBD_CMD_READ, NBD_CMD_WRITE } from '../protocol/constants.ts';
import type { Request } from '../protocol/request.ts';
import { STATUS_REPLY_BYTES_MAX } from './block-status.ts';

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
