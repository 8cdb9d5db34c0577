/**
 * The header of a transmission request (proto.md, "Request message"; "Extended request message" of its branch
 * extension-ext-header), decoded without allocating.
 */
import {
  NBD_CMD_BLOCK_STATUS,
  NBD_CMD_CACHE,
  NBD_CMD_FLAG_PAYLOAD_LEN,
  NBD_CMD_FLUSH,
  NBD_CMD_READ,
  NBD_CMD_TRIM,
  NBD_CMD_WRITE,
  NBD_CMD_WRITE_ZEROES,
  NBD_EXTENDED_REQUEST_MAGIC,
  NBD_REQUEST_MAGIC,
} from './constants.ts';
import { getU16, getU32, getU64, UNREPRESENTABLE } from './wire.ts';

export const REQUEST_HEADER_BYTES = 28;
export const EXTENDED_REQUEST_HEADER_BYTES = 32;
/** The magic, with which either header begins. */
export const REQUEST_MAGIC_BYTES = 4;

/** One request header. Reused for every request of a session: copy what must outlive the next `next()`. */
export interface Request {
  flags: number;
  type: number;
  /** The client's 64-bit request id as two 32-bit words: echoed, never interpreted. */
  cookieHigh: number;
  cookieLow: number;
  /** Byte in the export; UNREPRESENTABLE (beyond any export) from 2^53 on. */
  offset: number;
  /** The offset as it came, as two 32-bit words: an extended reply echoes it, whatever it is. */
  offsetHigh: number;
  offsetLow: number;
  /** Bytes that the command is about: 0 to 2^32-1, with extended headers to 2^53-1 or UNREPRESENTABLE. */
  length: number;
  /** Bytes that follow the header. */
  payloadLength: number;
  /** The contexts that a BLOCK_STATUS asks for in its payload; undefined: all that are selected. */
  contextIds: readonly number[] | undefined;
  /** Not of the protocol: when the driver took the request on, for its own use; 0 when it does not care. */
  startTime: number;
}

export function emptyRequest(): Request {
  return {
    flags: 0,
    type: 0,
    cookieHigh: 0,
    cookieLow: 0,
    offset: 0,
    offsetHigh: 0,
    offsetLow: 0,
    length: 0,
    payloadLength: 0,
    contextIds: undefined,
    startTime: 0,
  };
}

/** Decodes the 28 bytes at `position` into `request`; false when the magic is wrong. */
export function decodeRequest(bytes: Uint8Array, position: number, request: Request): boolean {
  if (getU32(bytes, position) !== NBD_REQUEST_MAGIC) {
    return false;
  }
  decodeCommonFields(bytes, position, request);
  request.length = getU32(bytes, position + 24);
  request.payloadLength = request.type === NBD_CMD_WRITE ? request.length : 0;
  return true;
}

/** Decodes the 32 bytes of an extended request at `position`; false when the magic is wrong. */
export function decodeExtendedRequest(bytes: Uint8Array, position: number, request: Request): boolean {
  if (getU32(bytes, position) !== NBD_EXTENDED_REQUEST_MAGIC) {
    return false;
  }
  decodeCommonFields(bytes, position, request);
  request.length = getU64(bytes, position + 24);
  // The flag, not the command, says whether `length` is that of a payload.
  request.payloadLength = (request.flags & NBD_CMD_FLAG_PAYLOAD_LEN) === 0 ? 0 : request.length;
  return true;
}

function decodeCommonFields(bytes: Uint8Array, position: number, request: Request): void {
  request.flags = getU16(bytes, position + 4);
  request.type = getU16(bytes, position + 6);
  request.cookieHigh = getU32(bytes, position + 8);
  request.cookieLow = getU32(bytes, position + 12);
  request.offset = getU64(bytes, position + 16);
  request.offsetHigh = getU32(bytes, position + 16);
  request.offsetLow = getU32(bytes, position + 20);
  request.contextIds = undefined;
}

/** The payload of an extended BLOCK_STATUS, 8 + 4n bytes: its effect length, and the contexts it asks for. */
export function decodeStatusFilter(payload: Uint8Array, request: Request): void {
  request.length = getU64(payload, 0);
  const contextIds: number[] = [];
  for (let position = 8; position < payload.length; position += 4) {
    contextIds.push(getU32(payload, position));
  }
  request.contextIds = contextIds;
}

const COMMAND_NAMES: ReadonlyMap<number, string> = new Map([
  [NBD_CMD_READ, 'READ'],
  [NBD_CMD_WRITE, 'WRITE'],
  [NBD_CMD_FLUSH, 'FLUSH'],
  [NBD_CMD_TRIM, 'TRIM'],
  [NBD_CMD_CACHE, 'CACHE'],
  [NBD_CMD_WRITE_ZEROES, 'WRITE_ZEROES'],
  [NBD_CMD_BLOCK_STATUS, 'BLOCK_STATUS'],
]);

/** A request for people: command, length, offset, all exact. */
export function describeRequest({ type, offsetHigh, offsetLow, length }: Request): string {
  const name = COMMAND_NAMES.get(type) ?? `command ${type}`;
  const bytes = length === UNREPRESENTABLE ? 'at least 2^53' : String(length);
  return `${name} of ${bytes} bytes at ${(BigInt(offsetHigh) << 32n) | BigInt(offsetLow)}`;
}
