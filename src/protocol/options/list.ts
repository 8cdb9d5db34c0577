/** LIST: the exports on offer (proto.md, "NBD_OPT_LIST", "NBD_REP_SERVER"). */
import { NBD_OPT_LIST, NBD_REP_SERVER } from '../constants.ts';
import { encodeUtf8, putU32 } from '../wire.ts';
import { encodeOptionReply } from './frame.ts';

export interface ListedExport {
  readonly name: string;
  readonly description: string;
}

/** One SERVER reply: length of the name, name, description. */
export function encodeListedExport(listed: ListedExport): Uint8Array {
  const name = encodeUtf8(listed.name);
  const description = encodeUtf8(listed.description);
  const data = new Uint8Array(4 + name.length + description.length);
  putU32(data, 0, name.length);
  data.set(name, 4);
  data.set(description, 4 + name.length);
  return encodeOptionReply(NBD_OPT_LIST, NBD_REP_SERVER, data);
}
