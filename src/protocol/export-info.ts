/**
 * What the protocol needs to know of an export, and the transmission flags that follow from it.
 */
import {
  NBD_FLAG_BLOCK_STATUS_PAYLOAD,
  NBD_FLAG_CAN_MULTI_CONN,
  NBD_FLAG_HAS_FLAGS,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_ROTATIONAL,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
} from './constants.ts';
import type { ReplyForm } from './reply.ts';

/**
 * Size constraints in bytes ("Size constraints" in proto.md), powers of two. The largest payload is the same
 * for all exports (PAYLOAD_BYTES_MAX): clients that never ask may count on 32 MiB.
 */
export interface BlockSize {
  readonly minimum: number;
  readonly preferred: number;
}

/** What an export can do; each answer becomes a transmission flag and is asked once per connection. */
export interface Capabilities {
  readonly isReadOnly: boolean;
  readonly isRotational: boolean;
  readonly canFlush: boolean;
  readonly canFua: boolean;
  readonly canTrim: boolean;
  readonly canZero: boolean;
  readonly canFastZero: boolean;
  readonly canCache: boolean;
  /** FLUSH on any connection covers what every connection was answered. */
  readonly canMultiConn: boolean;
}

export interface ExportInfo extends Capabilities {
  /** The canonical name. */
  readonly name: string;
  /** For people; may be empty. */
  readonly description: string;
  /** Bytes, 0 to 2^53-1, served exactly. */
  readonly size: number;
  readonly blockSize: BlockSize;
  /** Full names of the meta contexts on offer, such as `base:allocation`. */
  readonly metaContexts: readonly string[];
}

/**
 * The transmission flags of an export on a connection. Write-type flags are left out when it is read-only.
 * `hasMetaContexts`: some are selected for this export; without them there is nothing to filter.
 */
export function transmissionFlags(info: ExportInfo, form: ReplyForm, hasMetaContexts: boolean): number {
  const canWrite = !info.isReadOnly;
  const canZero = canWrite && info.canZero;
  return (
    NBD_FLAG_HAS_FLAGS |
    (info.isReadOnly ? NBD_FLAG_READ_ONLY : 0) |
    (info.canFlush ? NBD_FLAG_SEND_FLUSH : 0) |
    (info.canFua ? NBD_FLAG_SEND_FUA : 0) |
    (info.isRotational ? NBD_FLAG_ROTATIONAL : 0) |
    (canWrite && info.canTrim ? NBD_FLAG_SEND_TRIM : 0) |
    (canZero ? NBD_FLAG_SEND_WRITE_ZEROES : 0) |
    (canZero && info.canFastZero ? NBD_FLAG_SEND_FAST_ZERO : 0) |
    (form === 'simple' ? 0 : NBD_FLAG_SEND_DF) |
    (info.canMultiConn ? NBD_FLAG_CAN_MULTI_CONN : 0) |
    (info.canCache ? NBD_FLAG_SEND_CACHE : 0) |
    (form === 'extended' && hasMetaContexts ? NBD_FLAG_BLOCK_STATUS_PAYLOAD : 0)
  );
}
