/**
 * The whole legality table of transmission requests: what `judgeRequest` lets through, the layers below need
 * not check again. Only a BLOCK_STATUS with a payload is judged in two parts, because its range and contexts
 * stand in the payload. Order and verdicts follow proto.md, "Request types" and "Error values"; where the
 * specification leaves a choice, the comment says which server we side with.
 */
import { PAYLOAD_BYTES_MAX } from '../limits.ts';
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_FLAG_DF,
  NBD_CMD_FLAG_FAST_ZERO,
  NBD_CMD_FLAG_FUA,
  NBD_CMD_FLAG_NO_HOLE,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_FLAG_REQ_ONE,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_EINVAL,
  NBD_ENOSPC,
  NBD_EPERM,
  NBD_ESHUTDOWN,
  NBD_FLAG_BLOCK_STATUS_PAYLOAD,
  NBD_FLAG_READ_ONLY,
  NBD_FLAG_SEND_CACHE,
  NBD_FLAG_SEND_DF,
  NBD_FLAG_SEND_FAST_ZERO,
  NBD_FLAG_SEND_FLUSH,
  NBD_FLAG_SEND_FUA,
  NBD_FLAG_SEND_TRIM,
  NBD_FLAG_SEND_WRITE_ZEROES,
  type NbdErrno,
} from './constants.ts';
import type { Request } from './request.ts';

/** Why a request is refused: the error value for the wire, and words for a structured error chunk. */
export interface Refusal {
  readonly errno: Exclude<NbdErrno, 0>;
  readonly message: string;
}

/** What the verdict depends on besides the request itself. */
export interface RequestContext {
  /** The transmission flags that this connection was given. */
  readonly advertised: number;
  /** Bytes of the export. */
  readonly size: number;
  /** Smallest block in bytes, a power of two. */
  readonly blockBytesMin: number;
  /** Extended headers were negotiated. */
  readonly isExtended: boolean;
  /** The ids of the selected meta contexts. */
  readonly contextIds: readonly number[];
}

export const SHUTTING_DOWN: Refusal = { errno: NBD_ESHUTDOWN, message: 'The server is shutting down' };

const UNKNOWN_COMMAND: Refusal = { errno: NBD_EINVAL, message: 'Unknown command' };
const BAD_FLAG: Refusal = {
  errno: NBD_EINVAL,
  message: 'A flag is unknown, misplaced or was not advertised',
};
const NOT_ADVERTISED: Refusal = { errno: NBD_EINVAL, message: 'The command was not advertised' };
const READ_ONLY: Refusal = { errno: NBD_EPERM, message: 'The export is read-only' };
const PAST_END: Refusal = { errno: NBD_EINVAL, message: 'The request reaches past the end of the export' };
const NO_SPACE: Refusal = { errno: NBD_ENOSPC, message: 'The request reaches past the end of the export' };
const TOO_LARGE: Refusal = { errno: NBD_EINVAL, message: 'The request is larger than the maximum payload' };
const UNALIGNED: Refusal = {
  errno: NBD_EINVAL,
  message: 'The request is not aligned to the minimum block size',
};
const FLUSH_RANGE: Refusal = { errno: NBD_EINVAL, message: 'FLUSH takes no offset and no length' };
const NO_CONTEXT: Refusal = { errno: NBD_EINVAL, message: 'No meta context was negotiated for this export' };
const NO_PAYLOAD: Refusal = { errno: NBD_EINVAL, message: 'The command needs PAYLOAD_LEN and a payload' };
const BAD_FILTER: Refusal = {
  errno: NBD_EINVAL,
  message: 'The payload must be an effect length and selected meta context ids, each once',
};
const EMPTY_STATUS: Refusal = { errno: NBD_EINVAL, message: 'BLOCK_STATUS needs a length above zero' };

interface CommandRule {
  /** The transmission flag without which the command is refused; 0 for the ones that always exist. */
  readonly needs: number;
  /** Command flags besides FUA that belong to it. */
  readonly flags: number;
  readonly isWrite: boolean;
  readonly pastEnd: Refusal;
}

const RULES: ReadonlyMap<number, CommandRule> = new Map([
  [NBD_CMD_READ, { needs: 0, flags: NBD_CMD_FLAG_DF, isWrite: false, pastEnd: PAST_END }],
  [NBD_CMD_WRITE, { needs: 0, flags: NBD_CMD_FLAG_PAYLOAD_LEN, isWrite: true, pastEnd: NO_SPACE }],
  [NBD_CMD_FLUSH, { needs: NBD_FLAG_SEND_FLUSH, flags: 0, isWrite: false, pastEnd: FLUSH_RANGE }],
  [NBD_CMD_TRIM, { needs: NBD_FLAG_SEND_TRIM, flags: 0, isWrite: true, pastEnd: PAST_END }],
  [NBD_CMD_CACHE, { needs: NBD_FLAG_SEND_CACHE, flags: 0, isWrite: false, pastEnd: PAST_END }],
  [
    NBD_CMD_WRITE_ZEROES,
    {
      needs: NBD_FLAG_SEND_WRITE_ZEROES,
      flags: NBD_CMD_FLAG_NO_HOLE | NBD_CMD_FLAG_FAST_ZERO,
      isWrite: true,
      pastEnd: NO_SPACE,
    },
  ],
  [
    NBD_CMD_BLOCK_STATUS,
    {
      needs: 0,
      flags: NBD_CMD_FLAG_REQ_ONE | NBD_CMD_FLAG_PAYLOAD_LEN,
      isWrite: false,
      pastEnd: PAST_END,
    },
  ],
]);

/** The verdict on a request other than DISC: undefined when it may be executed. */
export function judgeRequest(request: Request, context: RequestContext): Refusal | undefined {
  const rule = RULES.get(request.type);
  if (rule === undefined) {
    return UNKNOWN_COMMAND;
  }
  if ((request.flags & ~allowedFlags(request.type, rule, context)) !== 0) {
    return BAD_FLAG;
  }
  // Before "not advertised": a read-only export advertises no TRIM, and EPERM is the truer answer.
  if (rule.isWrite && (context.advertised & NBD_FLAG_READ_ONLY) !== 0) {
    return READ_ONLY;
  }
  if ((context.advertised & rule.needs) !== rule.needs) {
    return NOT_ADVERTISED;
  }
  if (context.isExtended) {
    const hasPayload = (request.flags & NBD_CMD_FLAG_PAYLOAD_LEN) !== 0;
    if (request.payloadLength === 0 && (hasPayload || request.type === NBD_CMD_WRITE)) {
      return NO_PAYLOAD;
    }
    if (hasPayload && request.type === NBD_CMD_BLOCK_STATUS) {
      return judgeFilterLength(request.payloadLength, context.contextIds.length);
    }
  }
  return judgeRange(request, rule, context);
}

/** The other part of the verdict on a BLOCK_STATUS whose payload is decoded. */
export function judgeStatusFilter(request: Request, context: RequestContext): Refusal | undefined {
  const rule = RULES.get(NBD_CMD_BLOCK_STATUS);
  const ids = request.contextIds;
  if (rule === undefined || ids === undefined) {
    throw new Error('Bug: no decoded filter');
  }
  const isDouble = new Set(ids).size < ids.length;
  if (isDouble || ids.some((id) => !context.contextIds.includes(id))) {
    return BAD_FILTER;
  }
  return judgeRange(request, rule, context);
}

/**
 * An effect length and at least one context: with none, nothing could be answered. More than are selected
 * cannot be right either, so that a payload that is stored is bounded by what was negotiated.
 */
function judgeFilterLength(payloadLength: number, contextCount: number): Refusal | undefined {
  const idBytes = payloadLength - 8;
  return idBytes < 4 || idBytes % 4 !== 0 || idBytes > 4 * contextCount ? BAD_FILTER : undefined;
}

function judgeRange(request: Request, rule: CommandRule, context: RequestContext): Refusal | undefined {
  if (request.type === NBD_CMD_FLUSH) {
    // As nbdkit; qemu-nbd and nbd-server ignore them.
    return request.offset === 0 && request.length === 0 ? undefined : FLUSH_RANGE;
  }
  if (request.length > context.size || request.offset > context.size - request.length) {
    return rule.pastEnd;
  }
  // Exact beyond 2^32, too: bitwise operators take a number modulo 2^32.
  const alignmentMask = context.blockBytesMin - 1;
  if (((request.offset & alignmentMask) | (request.length & alignmentMask)) !== 0) {
    return UNALIGNED;
  }
  return judgeLength(request, context);
}

function allowedFlags(type: number, rule: CommandRule, { advertised, isExtended }: RequestContext): number {
  // FUA is legal on every command once advertised: existing clients set it on READ, too.
  const fua = (advertised & NBD_FLAG_SEND_FUA) === 0 ? 0 : NBD_CMD_FLAG_FUA;
  const canFilter = (advertised & NBD_FLAG_BLOCK_STATUS_PAYLOAD) !== 0;
  const canHavePayload = isExtended && (type !== NBD_CMD_BLOCK_STATUS || canFilter);
  const unusable =
    ((advertised & NBD_FLAG_SEND_DF) === 0 ? NBD_CMD_FLAG_DF : 0) |
    ((advertised & NBD_FLAG_SEND_FAST_ZERO) === 0 ? NBD_CMD_FLAG_FAST_ZERO : 0) |
    (canHavePayload ? 0 : NBD_CMD_FLAG_PAYLOAD_LEN);
  return (rule.flags & ~unusable) | fua;
}

function judgeLength(request: Request, context: RequestContext): Refusal | undefined {
  switch (request.type) {
    case NBD_CMD_READ:
    case NBD_CMD_WRITE:
      return request.length > PAYLOAD_BYTES_MAX ? TOO_LARGE : undefined;
    case NBD_CMD_BLOCK_STATUS:
      if (context.contextIds.length === 0) {
        return NO_CONTEXT;
      }
      return request.length === 0 ? EMPTY_STATUS : undefined;
    default:
      return undefined;
  }
}
