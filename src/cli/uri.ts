/** NBD URIs (NetworkBlockDevice/nbd, doc/uri.md) of the sockets that a server listens on. */
import { isIPv6 } from 'node:net';

/** `isTls`: for clients that must use TLS, or else will be refused. */
export function unixUri(exportName: string, socketPath: string, isTls: boolean): string {
  return `${scheme(isTls)}+unix:///${encodePath(exportName)}?socket=${encodePath(socketPath)}`;
}

export function tcpUri(exportName: string, address: string, port: number, isTls: boolean): string {
  const host = isIPv6(address) ? `[${address}]` : address;
  return `${scheme(isTls)}://${host}:${port}/${encodePath(exportName)}`;
}

function scheme(isTls: boolean): string {
  return isTls ? 'nbds' : 'nbd';
}

/** Percent-encodes all but the slash and what encodeURIComponent leaves (RFC 3986's unreserved and !*'()). */
export function encodePath(text: string): string {
  return text.split('/').map(encodeURIComponent).join('/');
}
