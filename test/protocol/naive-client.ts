/**
 * A client as the specification describes it: encodes what a client says, decodes and checks what a server
 * may answer. Shares no code and no constants with src/protocol.
 */
import { expect } from 'vitest';
import { Cursor, join, u16, u32, u64, utf8 } from './bytes.ts';

export const OPT = {
  EXPORT_NAME: 1,
  ABORT: 2,
  LIST: 3,
  PEEK_EXPORT: 4,
  STARTTLS: 5,
  INFO: 6,
  GO: 7,
  STRUCTURED_REPLY: 8,
  LIST_META_CONTEXT: 9,
  SET_META_CONTEXT: 10,
  EXTENDED_HEADERS: 11,
} as const;

export const REP = {
  ACK: 1,
  SERVER: 2,
  INFO: 3,
  META_CONTEXT: 4,
  ERR_UNSUP: 0x80000001,
  ERR_POLICY: 0x80000002,
  ERR_INVALID: 0x80000003,
  ERR_TLS_REQD: 0x80000005,
  ERR_UNKNOWN: 0x80000006,
  ERR_SHUTDOWN: 0x80000007,
  ERR_TOO_BIG: 0x80000009,
  ERR_EXT_HEADER_REQD: 0x8000000a,
} as const;

export const CMD = {
  READ: 0,
  WRITE: 1,
  DISC: 2,
  FLUSH: 3,
  TRIM: 4,
  CACHE: 5,
  WRITE_ZEROES: 6,
  BLOCK_STATUS: 7,
} as const;

/** Client flags: fixed newstyle and no zeroes. */
export const MODERN = u32(3);

export function option(
  number: number,
  data: Uint8Array = new Uint8Array(0),
  length = data.length,
): Uint8Array {
  return join(utf8('IHAVEOPT'), u32(number), u32(length), data);
}

export function infoData(name: string, infoTypes: readonly number[] = []): Uint8Array {
  const encoded = utf8(name);
  return join(u32(encoded.length), encoded, u16(infoTypes.length), ...infoTypes.map(u16));
}

export function go(name: string, infoTypes: readonly number[] = []): Uint8Array {
  return option(OPT.GO, infoData(name, infoTypes));
}

export function metaData(name: string, queries: readonly string[]): Uint8Array {
  const encoded = utf8(name);
  const encodedQueries = queries.map((query) => join(u32(utf8(query).length), utf8(query)));
  return join(u32(encoded.length), encoded, u32(queries.length), ...encodedQueries);
}

export function setMetaContext(name: string, queries: readonly string[]): Uint8Array {
  return option(OPT.SET_META_CONTEXT, metaData(name, queries));
}

export interface ClientRequest {
  readonly type: number;
  readonly flags?: number;
  readonly cookie?: bigint;
  readonly offset?: bigint | number;
  readonly length?: bigint | number;
}

export function request(
  { type, flags = 0, cookie = 0n, offset = 0, length = 0 }: ClientRequest,
  payload: Uint8Array = new Uint8Array(0),
): Uint8Array {
  return join(
    u32(0x25609513),
    u16(flags),
    u16(type),
    u64(cookie),
    u64(BigInt(offset)),
    u32(Number(length)),
    payload,
  );
}

export const PAYLOAD_LEN = 0x20;

/** An extended request of 32 bytes; with a payload PAYLOAD_LEN is set and `length` is its length. */
export function extendedRequest(
  { type, flags = 0, cookie = 0n, offset = 0, length = 0 }: ClientRequest,
  payload?: Uint8Array,
): Uint8Array {
  return join(
    ...[u32(0x21e41c71), u16(payload === undefined ? flags : flags | PAYLOAD_LEN), u16(type)],
    ...[u64(cookie), u64(BigInt(offset)), u64(BigInt(payload?.length ?? length))],
    payload ?? new Uint8Array(0),
  );
}

export function extendedWrite(offset: number, payload: Uint8Array, cookie = 0n, flags = 0): Uint8Array {
  return extendedRequest({ type: CMD.WRITE, flags, cookie, offset }, payload);
}

/** The payload by which an extended BLOCK_STATUS asks for some contexts only. */
export function statusFilter(length: bigint | number, ids: readonly number[]): Uint8Array {
  return join(u64(BigInt(length)), ...ids.map(u32));
}

export function write(offset: number, payload: Uint8Array, cookie = 0n, flags = 0): Uint8Array {
  return request({ type: CMD.WRITE, flags, cookie, offset, length: payload.length }, payload);
}

export interface OptionReply {
  readonly option: number;
  readonly type: number;
  readonly data: Uint8Array;
}

/** All option replies in `bytes`; checks that an ACK is empty and an error carries at most 4096 bytes of text. */
export function decodeOptionReplies(bytes: Uint8Array): OptionReply[] {
  const cursor = new Cursor(bytes);
  const replies: OptionReply[] = [];
  while (cursor.rest > 0) {
    expect(cursor.u64()).toBe(0x0003e889045565a9n);
    const reply = { option: cursor.u32(), type: cursor.u32(), data: cursor.take(cursor.u32()) };
    if (reply.type === REP.ACK) expect(reply.data).toHaveLength(0);
    if (reply.type >= 0x80000000) {
      expect(reply.data.length).toBeLessThanOrEqual(4096);
      new Cursor(reply.data).text(reply.data.length);
    }
    replies.push(reply);
  }
  return replies;
}

export type Chunk = {
  readonly cookie: bigint;
  readonly isDone: boolean;
  /** The offset that an extended header echoes; a structured one has none. */
  readonly echoed?: bigint;
} & (
  | { readonly kind: 'none' }
  | { readonly kind: 'data'; readonly offset: bigint; readonly data: Uint8Array }
  | { readonly kind: 'hole'; readonly offset: bigint; readonly length: number }
  | { readonly kind: 'status'; readonly id: number; readonly extents: [length: number, status: number][] }
  | { readonly kind: 'error'; readonly errno: number; readonly message: string }
);

/** One structured or extended chunk; throws or fails on everything that the specification forbids within a chunk. */
export function decodeChunk(cursor: Cursor): Chunk {
  const magic = cursor.u32();
  const isExtended = magic === 0x6e8a278c;
  if (!isExtended) expect(magic).toBe(0x668e33ef);
  const flags = cursor.u16();
  expect(flags & ~1).toBe(0);
  const type = cursor.u16();
  const cookie = cursor.u64();
  const isDone = (flags & 1) === 1;
  const common = isExtended ? { cookie, isDone, echoed: cursor.u64() } : { cookie, isDone };
  const payload = new Cursor(cursor.take(isExtended ? Number(cursor.u64()) : cursor.u32()));
  switch (type) {
    case 0:
      expect(payload.rest).toBe(0);
      expect(common.isDone).toBe(true);
      return { ...common, kind: 'none' };
    case 1: {
      expect(payload.rest).toBeGreaterThanOrEqual(9);
      return { ...common, kind: 'data', offset: payload.u64(), data: payload.take(payload.rest) };
    }
    case 2: {
      const hole = { offset: payload.u64(), length: payload.u32() };
      expect(hole.length).toBeGreaterThan(0);
      expect(payload.rest).toBe(0);
      return { ...common, kind: 'hole', ...hole };
    }
    case 6: {
      expect(isExtended).toBe(true);
      const id = payload.u32();
      const count = payload.u32();
      expect(count).toBeGreaterThan(0);
      expect(payload.rest).toBe(16 * count);
      const extents: [number, number][] = [];
      while (payload.rest > 0) extents.push([Number(payload.u64()), Number(payload.u64())]);
      expect(extents.every(([length, status]) => length > 0 && status < 2 ** 32)).toBe(true);
      return { ...common, kind: 'status', id, extents };
    }
    case 5: {
      expect(isExtended).toBe(false);
      const id = payload.u32();
      expect(payload.rest).toBeGreaterThanOrEqual(8);
      expect(payload.rest % 8).toBe(0);
      const extents: [number, number][] = [];
      while (payload.rest > 0) extents.push([payload.u32(), payload.u32()]);
      expect(extents.every(([length]) => length > 0)).toBe(true);
      return { ...common, kind: 'status', id, extents };
    }
    case 0x8001: {
      const errno = payload.u32();
      expect(errno).not.toBe(0);
      const length = payload.u16();
      expect(length).toBeLessThanOrEqual(4096);
      const message = payload.text(length);
      expect(payload.rest).toBe(0);
      return { ...common, kind: 'error', errno, message };
    }
    default:
      throw new Error(`Chunk of type ${type}`);
  }
}

/** All chunks in `bytes`, which belong to one reply: DONE is on the last one and only there. */
export function decodeReplyChunks(bytes: Uint8Array): Chunk[] {
  const cursor = new Cursor(bytes);
  const chunks: Chunk[] = [];
  while (cursor.rest > 0) chunks.push(decodeChunk(cursor));
  expect(chunks.map(({ isDone }) => isDone)).toEqual(chunks.map((_, index) => index === chunks.length - 1));
  return chunks;
}
