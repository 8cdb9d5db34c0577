/**
 * The bytes of transmission replies (proto.md, "Simple reply message", "Structured reply chunk message";
 * "Extended reply chunk message" of its branch extension-ext-header). The `put` functions write at a position
 * of the caller's buffer and return the position behind; the caller provides the room that the `...Bytes`
 * constants and functions name.
 *
 * A structured or extended reply is a row of chunks, the last of them with DONE. The parts of a READ are
 * OFFSET_DATA and OFFSET_HOLE chunks in any order, each byte in exactly one. An error after some of them is an
 * ERROR chunk: nothing of the reply counts then.
 */
import {
  NBD_EXTENDED_REPLY_MAGIC,
  NBD_REPLY_FLAG_DONE,
  NBD_REPLY_TYPE_BLOCK_STATUS,
  NBD_REPLY_TYPE_BLOCK_STATUS_EXT,
  NBD_REPLY_TYPE_ERROR,
  NBD_REPLY_TYPE_NONE,
  NBD_REPLY_TYPE_OFFSET_DATA,
  NBD_REPLY_TYPE_OFFSET_HOLE,
  NBD_SIMPLE_REPLY_MAGIC,
  NBD_STRING_BYTES_MAX,
  NBD_STRUCTURED_REPLY_MAGIC,
  NBD_SUCCESS,
  type NbdErrno,
} from './constants.ts';
import { encodeUtf8Cut, putU16, putU32, putU64 } from './wire.ts';

/** How a session's replies look; negotiated once, before transmission. */
export type ReplyForm = 'simple' | 'structured' | 'extended';

/** The forms whose replies are rows of chunks. */
export type ChunkForm = Exclude<ReplyForm, 'simple'>;

/** What a reply echoes of its request, exactly as the client sent it; the offset only in the extended form. */
export interface Echo {
  readonly cookieHigh: number;
  readonly cookieLow: number;
  readonly offsetHigh: number;
  readonly offsetLow: number;
}

/** A run of bytes with one status in some meta context. */
export interface StatusExtent {
  readonly length: number;
  readonly status: number;
}

/** The extents that a BLOCK_STATUS reply reports for one selected context. */
export interface ContextStatus {
  readonly id: number;
  readonly extents: readonly StatusExtent[];
}

const SIMPLE_HEADER_BYTES = 16;
const CHUNK_HEADER_BYTES: Readonly<Record<ChunkForm, number>> = { structured: 20, extended: 32 };
const HOLE_PAYLOAD_BYTES = 12;

/** Room for a reply without data in any form. */
export const EMPTY_REPLY_BYTES_MAX = CHUNK_HEADER_BYTES.extended;

/** Bytes before the data of a successful READ of at least one byte. */
export function dataHeaderBytes(form: ReplyForm): number {
  return form === 'simple' ? SIMPLE_HEADER_BYTES : CHUNK_HEADER_BYTES[form] + 8;
}

/** Bytes of a hole in a READ, however long it is. */
export function holeBytes(form: ChunkForm): number {
  return CHUNK_HEADER_BYTES[form] + HOLE_PAYLOAD_BYTES;
}

/**
 * The header of data in a READ's reply; `length` bytes must follow, all of them right. A simple reply has no
 * other part, so that `isLast` is true for it.
 */
export function putDataHeader(
  bytes: Uint8Array,
  position: number,
  form: ReplyForm,
  echo: Echo,
  offset: number,
  length: number,
  isLast = true,
): number {
  if (form === 'simple') {
    return putSimple(bytes, position, echo, NBD_SUCCESS);
  }
  const next = putChunk(bytes, position, form, NBD_REPLY_TYPE_OFFSET_DATA, echo, 8 + length, isLast);
  putU64(bytes, next, offset);
  return next + 8;
}

/** `length` bytes (1 to 2^32-1) of a READ that read as zeros, from `offset` on. */
export function putHole(
  bytes: Uint8Array,
  position: number,
  form: ChunkForm,
  echo: Echo,
  offset: number,
  length: number,
  isLast: boolean,
): number {
  const type = NBD_REPLY_TYPE_OFFSET_HOLE;
  const next = putChunk(bytes, position, form, type, echo, HOLE_PAYLOAD_BYTES, isLast);
  putU64(bytes, next, offset);
  putU32(bytes, next + 8, length);
  return next + HOLE_PAYLOAD_BYTES;
}

/** Success without data. */
export function putDone(bytes: Uint8Array, position: number, form: ReplyForm, echo: Echo): number {
  return form === 'simple'
    ? putSimple(bytes, position, echo, NBD_SUCCESS)
    : putChunk(bytes, position, form, NBD_REPLY_TYPE_NONE, echo, 0, true);
}

/** A whole error reply, or the end of one; `message` is for people and travels in chunks only. */
export function encodeError(
  form: ReplyForm,
  echo: Echo,
  errno: Exclude<NbdErrno, 0>,
  message: string,
): Uint8Array {
  if (form === 'simple') {
    const bytes = new Uint8Array(SIMPLE_HEADER_BYTES);
    putSimple(bytes, 0, echo, errno);
    return bytes;
  }
  const text = encodeUtf8Cut(message, NBD_STRING_BYTES_MAX);
  const bytes = new Uint8Array(CHUNK_HEADER_BYTES[form] + 6 + text.length);
  const position = putChunk(bytes, 0, form, NBD_REPLY_TYPE_ERROR, echo, 6 + text.length, true);
  putU32(bytes, position, errno);
  putU16(bytes, position + 4, text.length);
  bytes.set(text, position + 6);
  return bytes;
}

/**
 * A whole BLOCK_STATUS reply: one chunk for each context. Neighbours of equal status are merged, what lies
 * beyond `requestLength` is cut off, and with `isRequestOne` only the first extent is sent. In the structured
 * form `requestLength` is below 2^32, which keeps every length there, and so must be every status.
 */
export function encodeBlockStatus(
  form: ChunkForm,
  echo: Echo,
  contexts: readonly ContextStatus[],
  requestLength: number,
  isRequestOne: boolean,
): Uint8Array {
  const statuses = contexts.map(({ id, extents }) => ({
    id,
    extents: extentsToSend(extents, requestLength, isRequestOne),
  }));
  const headerBytes = CHUNK_HEADER_BYTES[form];
  const bytes = new Uint8Array(
    statuses.reduce((sum, { extents }) => sum + headerBytes + statusBytes(form, extents.length), 0),
  );
  let position = 0;
  statuses.forEach(({ id, extents }, index) => {
    const isLast = index === statuses.length - 1;
    position =
      form === 'structured'
        ? putStatus(bytes, position, echo, id, extents, isLast)
        : putExtendedStatus(bytes, position, echo, id, extents, isLast);
  });
  return bytes;
}

function statusBytes(form: ChunkForm, count: number): number {
  return form === 'structured' ? 4 + 8 * count : 8 + 16 * count;
}

function putStatus(
  bytes: Uint8Array,
  position: number,
  echo: Echo,
  id: number,
  extents: readonly StatusExtent[],
  isLast: boolean,
): number {
  const payloadBytes = statusBytes('structured', extents.length);
  const type = NBD_REPLY_TYPE_BLOCK_STATUS;
  let next = putChunk(bytes, position, 'structured', type, echo, payloadBytes, isLast);
  putU32(bytes, next, id);
  next += 4;
  for (const { length, status } of extents) {
    putU32(bytes, next, length);
    putU32(bytes, next + 4, status);
    next += 8;
  }
  return next;
}

function putExtendedStatus(
  bytes: Uint8Array,
  position: number,
  echo: Echo,
  id: number,
  extents: readonly StatusExtent[],
  isLast: boolean,
): number {
  const payloadBytes = statusBytes('extended', extents.length);
  const type = NBD_REPLY_TYPE_BLOCK_STATUS_EXT;
  let next = putChunk(bytes, position, 'extended', type, echo, payloadBytes, isLast);
  putU32(bytes, next, id);
  putU32(bytes, next + 4, extents.length);
  next += 8;
  for (const { length, status } of extents) {
    putU64(bytes, next, length);
    putU64(bytes, next + 8, status);
    next += 16;
  }
  return next;
}

function extentsToSend(
  extents: readonly StatusExtent[],
  requestLength: number,
  isRequestOne: boolean,
): readonly StatusExtent[] {
  const merged = mergeExtents(extents, requestLength);
  if (merged.length === 0) {
    throw new Error('Bug: a BLOCK_STATUS reply without extents');
  }
  return isRequestOne ? merged.slice(0, 1) : merged;
}

function mergeExtents(extents: readonly StatusExtent[], lengthMax: number): StatusExtent[] {
  const merged: StatusExtent[] = [];
  let left = lengthMax;
  for (const extent of extents) {
    const length = Math.min(extent.length, left);
    if (length === 0) {
      continue;
    }
    const last = merged.at(-1);
    if (last?.status === extent.status) {
      merged[merged.length - 1] = { length: last.length + length, status: last.status };
    } else {
      merged.push({ length, status: extent.status });
    }
    left -= length;
  }
  return merged;
}

function putSimple(bytes: Uint8Array, position: number, echo: Echo, errno: NbdErrno): number {
  putU32(bytes, position, NBD_SIMPLE_REPLY_MAGIC);
  putU32(bytes, position + 4, errno);
  putU32(bytes, position + 8, echo.cookieHigh);
  putU32(bytes, position + 12, echo.cookieLow);
  return position + SIMPLE_HEADER_BYTES;
}

function putChunk(
  bytes: Uint8Array,
  position: number,
  form: ChunkForm,
  type: number,
  echo: Echo,
  payloadBytes: number,
  isLast: boolean,
): number {
  const isExtended = form === 'extended';
  putU32(bytes, position, isExtended ? NBD_EXTENDED_REPLY_MAGIC : NBD_STRUCTURED_REPLY_MAGIC);
  putU16(bytes, position + 4, isLast ? NBD_REPLY_FLAG_DONE : 0);
  putU16(bytes, position + 6, type);
  putU32(bytes, position + 8, echo.cookieHigh);
  putU32(bytes, position + 12, echo.cookieLow);
  if (isExtended) {
    putU32(bytes, position + 16, echo.offsetHigh);
    putU32(bytes, position + 20, echo.offsetLow);
    putU64(bytes, position + 24, payloadBytes);
  } else {
    putU32(bytes, position + 16, payloadBytes);
  }
  return position + CHUNK_HEADER_BYTES[form];
}
