/**
 * GO and INFO, and their elder EXPORT_NAME: three ways to name an export (proto.md, "NBD_OPT_GO",
 * "NBD_REP_INFO", "NBD_OPT_EXPORT_NAME").
 */
import { PAYLOAD_BYTES_MAX } from '../../limits.ts';
import {
  NBD_INFO_BLOCK_SIZE,
  NBD_INFO_DESCRIPTION,
  NBD_INFO_EXPORT,
  NBD_INFO_NAME,
  NBD_REP_INFO,
  NBD_STRING_BYTES_MAX,
} from '../constants.ts';
import type { ExportInfo } from '../export-info.ts';
import { decodeUtf8, encodeUtf8, getU16, getU32, putU16, putU32, putU64 } from '../wire.ts';
import { encodeOptionReply } from './frame.ts';

/** Zero bytes after an EXPORT_NAME reply unless both sides set NO_ZEROES. */
const EXPORT_NAME_PADDING_BYTES = 124;

export interface GoOption {
  readonly exportName: string;
  readonly infoTypes: ReadonlySet<number>;
}

/** An export name as it stands on the wire; undefined when too long, no UTF-8 or with a NUL. */
export function decodeExportName(bytes: Uint8Array): string | undefined {
  return bytes.length > NBD_STRING_BYTES_MAX ? undefined : decodeUtf8(bytes);
}

/** The data of a GO or INFO; undefined unless the inner lengths add up to the option's length exactly. */
export function decodeGo(data: Uint8Array): GoOption | undefined {
  if (data.length < 6) {
    return undefined;
  }
  const nameLength = getU32(data, 0);
  if (nameLength > data.length - 6) {
    return undefined;
  }
  const infoCount = getU16(data, 4 + nameLength);
  if (data.length !== 6 + nameLength + 2 * infoCount) {
    return undefined;
  }
  const exportName = decodeExportName(data.subarray(4, 4 + nameLength));
  if (exportName === undefined) {
    return undefined;
  }
  const infoTypes = new Set<number>();
  for (let index = 0; index < infoCount; index += 1) {
    infoTypes.add(getU16(data, 6 + nameLength + 2 * index));
  }
  return { exportName, infoTypes };
}

/** The INFO replies of a GO or INFO: EXPORT always, the others when asked for and known. */
export function encodeInfoReplies(
  option: number,
  info: ExportInfo,
  infoTypes: ReadonlySet<number>,
  transmissionFlags: number,
): Uint8Array[] {
  const replies = [encodeOptionReply(option, NBD_REP_INFO, encodeInfoExport(info, transmissionFlags))];
  if (infoTypes.has(NBD_INFO_NAME)) {
    replies.push(encodeOptionReply(option, NBD_REP_INFO, encodeInfoText(NBD_INFO_NAME, info.name)));
  }
  if (infoTypes.has(NBD_INFO_DESCRIPTION) && info.description !== '') {
    replies.push(
      encodeOptionReply(option, NBD_REP_INFO, encodeInfoText(NBD_INFO_DESCRIPTION, info.description)),
    );
  }
  if (infoTypes.has(NBD_INFO_BLOCK_SIZE)) {
    replies.push(encodeOptionReply(option, NBD_REP_INFO, encodeInfoBlockSize(info)));
  }
  return replies;
}

/** The headerless success reply to EXPORT_NAME. */
export function encodeExportNameReply(
  info: ExportInfo,
  transmissionFlags: number,
  isPadded: boolean,
): Uint8Array {
  const bytes = new Uint8Array(10 + (isPadded ? EXPORT_NAME_PADDING_BYTES : 0));
  putU64(bytes, 0, info.size);
  putU16(bytes, 8, transmissionFlags);
  return bytes;
}

function encodeInfoExport(info: ExportInfo, transmissionFlags: number): Uint8Array {
  const data = new Uint8Array(12);
  putU16(data, 0, NBD_INFO_EXPORT);
  putU64(data, 2, info.size);
  putU16(data, 10, transmissionFlags);
  return data;
}

function encodeInfoText(type: number, text: string): Uint8Array {
  const encoded = encodeUtf8(text);
  const data = new Uint8Array(2 + encoded.length);
  putU16(data, 0, type);
  data.set(encoded, 2);
  return data;
}

function encodeInfoBlockSize(info: ExportInfo): Uint8Array {
  const data = new Uint8Array(14);
  putU16(data, 0, NBD_INFO_BLOCK_SIZE);
  putU32(data, 2, info.blockSize.minimum);
  putU32(data, 6, info.blockSize.preferred);
  putU32(data, 10, PAYLOAD_BYTES_MAX);
  return data;
}
