/**
 * Valid sessions of one client each, from its flags to its goodbye: what mutation starts from. The exports are
 * `disk` and, under the default name, one of at least 4 MiB.
 */
import { join, pattern, u32, utf8 } from '../protocol/bytes.ts';
import {
  CMD,
  extendedRequest,
  go,
  infoData,
  metaData,
  OPT,
  option,
  request,
  setMetaContext,
  statusFilter,
} from '../protocol/naive-client.ts';

function transmission(isExtended: boolean): Uint8Array {
  const send = (
    type: number,
    flags: number,
    offset: number,
    length: number,
    data?: Uint8Array,
  ): Uint8Array =>
    isExtended
      ? extendedRequest({ type, flags, cookie: BigInt(type), offset, length }, data)
      : request({ type, flags, cookie: BigInt(type), offset, length }, data);
  return join(
    send(CMD.READ, 0, 0, 4096),
    send(CMD.WRITE, 0, 4096, 600, pattern(600)),
    send(CMD.READ, isExtended ? 4 : 0, 65_536, 200_000),
    send(CMD.WRITE, 1, 8192, 5, pattern(5)),
    send(CMD.WRITE_ZEROES, 2, 16_384, 8192),
    send(CMD.WRITE_ZEROES, 0x10, 32_768, 4096),
    send(CMD.TRIM, 1, 65_536, 65_536),
    send(CMD.CACHE, 0, 0, 1_048_576),
    send(CMD.BLOCK_STATUS, 0, 0, 1_048_576),
    send(CMD.BLOCK_STATUS, 8, 4096, 65_536),
    send(CMD.FLUSH, 0, 0, 0),
    ...(isExtended ? [send(CMD.BLOCK_STATUS, 0, 0, 0, statusFilter(65_536, [1]))] : []),
    send(CMD.DISC, 0, 0, 0),
  );
}

const MODERN = u32(3);
const LIST = option(OPT.LIST);
const STRUCTURED = option(OPT.STRUCTURED_REPLY);
const EXTENDED = option(OPT.EXTENDED_HEADERS);

/** The sessions of today's client libraries, and those of old ones. */
export const RECORDED_SESSIONS: Readonly<Record<string, Uint8Array>> = {
  simple: join(MODERN, go(''), transmission(false)),
  'export-name': join(u32(1), option(OPT.EXPORT_NAME, utf8('disk')), transmission(false)),
  oldest: join(u32(0), option(OPT.EXPORT_NAME), transmission(false)),
  haggling: join(
    ...[
      MODERN,
      LIST,
      STRUCTURED,
      option(OPT.INFO, infoData('', [0, 1, 2, 3])),
      option(OPT.INFO, infoData('none')),
    ],
    option(OPT.LIST_META_CONTEXT, metaData('', [])),
    option(OPT.LIST_META_CONTEXT, metaData('disk', ['base:'])),
    ...[option(OPT.PEEK_EXPORT), option(99, pattern(40)), LIST, option(OPT.ABORT)],
  ),
  structured: join(
    ...[MODERN, STRUCTURED, setMetaContext('', ['base:allocation']), go('', [3])],
    transmission(false),
  ),
  extended: join(
    ...[MODERN, EXTENDED, setMetaContext('disk', ['base:allocation']), go('disk', [1, 2, 3])],
    transmission(true),
  ),
  'start-tls': join(
    ...[MODERN, STRUCTURED, option(OPT.STARTTLS), STRUCTURED, setMetaContext('', ['base:allocation'])],
    ...[option(OPT.STARTTLS), go(''), transmission(false)],
  ),
};
