/**
 * LIST_META_CONTEXT and SET_META_CONTEXT (proto.md, "Metadata querying"): which kinds of status BLOCK_STATUS
 * reports.
 */
import { META_QUERY_COUNT_MAX } from '../../limits.ts';
import { NBD_REP_META_CONTEXT, NBD_STRING_BYTES_MAX } from '../constants.ts';
import { decodeUtf8, encodeUtf8, getU32, putU32 } from '../wire.ts';
import { encodeOptionReply } from './frame.ts';
import { decodeExportName } from './go.ts';

export interface MetaContextOption {
  readonly exportName: string;
  readonly queries: readonly string[];
}

/** A context that the client selected; BLOCK_STATUS replies carry the id. */
export interface MetaContext {
  readonly id: number;
  readonly name: string;
}

/** The data of either option; `invalid` when a length is off or a string is none, `too-big` for a flood. */
export function decodeMetaContext(data: Uint8Array): MetaContextOption | 'invalid' | 'too-big' {
  if (data.length < 8) {
    return 'invalid';
  }
  const nameLength = getU32(data, 0);
  if (nameLength > data.length - 8) {
    return 'invalid';
  }
  const exportName = decodeExportName(data.subarray(4, 4 + nameLength));
  if (exportName === undefined) {
    return 'invalid';
  }
  const queryCount = getU32(data, 4 + nameLength);
  let position = 8 + nameLength;
  // Each query takes four bytes at least, so a count beyond that is a lie, whatever the limit.
  if (queryCount > (data.length - position) / 4) {
    return 'invalid';
  }
  if (queryCount > META_QUERY_COUNT_MAX) {
    return 'too-big';
  }
  const queries: string[] = [];
  for (let index = 0; index < queryCount; index += 1) {
    if (data.length - position < 4) {
      return 'invalid';
    }
    const queryLength = getU32(data, position);
    position += 4;
    if (queryLength > data.length - position || queryLength > NBD_STRING_BYTES_MAX) {
      return 'invalid';
    }
    const query = decodeUtf8(data.subarray(position, position + queryLength));
    if (query === undefined) {
      return 'invalid';
    }
    queries.push(query);
    position += queryLength;
  }
  return position === data.length ? { exportName, queries } : 'invalid';
}

/** The contexts that a LIST shows: all without a query; a query is a full name or `namespace:` as wildcard. */
export function listContexts(queries: readonly string[], offered: readonly string[]): MetaContext[] {
  const isWanted = (name: string): boolean =>
    queries.length === 0 ||
    queries.some((query) => query === name || (isNamespace(query) && name.startsWith(query)));
  return offered.filter(isWanted).map((name) => ({ id: 0, name }));
}

/** The contexts that a SET selects: exact names only, each once, in the order of the offer. */
export function selectContexts(queries: readonly string[], offered: readonly string[]): MetaContext[] {
  return offered.filter((name) => queries.includes(name)).map((name, index) => ({ id: index + 1, name }));
}

/** One META_CONTEXT reply. `option` is the one that is answered; LIST replies carry the id 0. */
export function encodeMetaContext(option: number, context: MetaContext): Uint8Array {
  const name = encodeUtf8(context.name);
  const data = new Uint8Array(4 + name.length);
  putU32(data, 0, context.id);
  data.set(name, 4);
  return encodeOptionReply(option, NBD_REP_META_CONTEXT, data);
}

/** `base:` or `qemu:`: everything in that namespace. */
function isNamespace(query: string): boolean {
  return query !== '' && query.indexOf(':') === query.length - 1;
}
