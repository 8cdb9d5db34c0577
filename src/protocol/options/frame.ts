/**
 * The bytes of the handshake that belong to no option: the server's greeting, the client's flags, and the
 * headers of options and option replies (proto.md, "Fixed newstyle negotiation").
 */
import {
  IHAVEOPT_HIGH,
  IHAVEOPT_LOW,
  NBD_FLAG_FIXED_NEWSTYLE,
  NBD_FLAG_NO_ZEROES,
  NBD_REP_MAGIC_HIGH,
  NBD_REP_MAGIC_LOW,
  NBD_STRING_BYTES_MAX,
  NBDMAGIC_HIGH,
  NBDMAGIC_LOW,
} from '../constants.ts';
import { encodeUtf8Cut, getU32, putU16, putU32 } from '../wire.ts';

export const CLIENT_FLAGS_BYTES = 4;
export const OPTION_HEADER_BYTES = 16;
const OPTION_REPLY_HEADER_BYTES = 20;

/** The first 18 bytes that a server sends. */
export function encodeGreeting(): Uint8Array {
  const bytes = new Uint8Array(18);
  putU32(bytes, 0, NBDMAGIC_HIGH);
  putU32(bytes, 4, NBDMAGIC_LOW);
  putU32(bytes, 8, IHAVEOPT_HIGH);
  putU32(bytes, 12, IHAVEOPT_LOW);
  putU16(bytes, 16, NBD_FLAG_FIXED_NEWSTYLE | NBD_FLAG_NO_ZEROES);
  return bytes;
}

export interface OptionHeader {
  readonly option: number;
  /** Bytes of data that follow, as the client claims. */
  readonly length: number;
}

/** The 16 bytes at `position`; undefined when the magic is wrong. */
export function decodeOptionHeader(bytes: Uint8Array, position: number): OptionHeader | undefined {
  if (getU32(bytes, position) !== IHAVEOPT_HIGH || getU32(bytes, position + 4) !== IHAVEOPT_LOW) {
    return undefined;
  }
  return { option: getU32(bytes, position + 8), length: getU32(bytes, position + 12) };
}

/** A whole option reply. `type`: NBD_REP_*. */
export function encodeOptionReply(
  option: number,
  type: number,
  data: Uint8Array = new Uint8Array(0),
): Uint8Array {
  const bytes = new Uint8Array(OPTION_REPLY_HEADER_BYTES + data.length);
  putU32(bytes, 0, NBD_REP_MAGIC_HIGH);
  putU32(bytes, 4, NBD_REP_MAGIC_LOW);
  putU32(bytes, 8, option);
  putU32(bytes, 12, type);
  putU32(bytes, 16, data.length);
  bytes.set(data, OPTION_REPLY_HEADER_BYTES);
  return bytes;
}

/** An error reply with a message for people. `type`: NBD_REP_ERR_*. */
export function encodeOptionError(option: number, type: number, message: string): Uint8Array {
  return encodeOptionReply(option, type, encodeUtf8Cut(message, NBD_STRING_BYTES_MAX));
}
