/**
 * Opens the listening sockets that the command line asks for. Loopback unless told otherwise: today's servers
 * listen on every interface by default, in plaintext.
 */

import { lookup } from 'node:dns/promises';
import { closeSync } from 'node:fs';
import { BlockList, isIPv6 } from 'node:net';
import { LISTEN_BACKLOG } from '../limits.ts';
import { native } from '../native/binding.ts';
import { EACCES, EADDRINUSE, EADDRNOTAVAIL, errnoName, errnoOf } from '../native/errno.ts';
import { NBD_DEFAULT_PORT } from '../protocol/constants.ts';
import { CommandError } from './command-error.ts';
import { listenUnix } from './listen-unix.ts';
import { tcpUri, unixUri } from './uri.ts';

export interface ListenOptions {
  /** A path, `-` for a private temporary one, or undefined for none. */
  readonly unix?: string | undefined;
  readonly port?: number | undefined;
  readonly bind?: string | undefined;
  readonly allowPlaintext: boolean;
  /** What lifts the refusal, in the words of whoever is told; those of the command line unless given. */
  readonly plaintextHint?: string;
  /** Nobody is served in plaintext: any address will do, and the URIs say so. */
  readonly isTlsRequired: boolean;
  readonly exportName: string;
}

export interface ListeningSocket {
  readonly fd: number;
  readonly uri: string;
  /** Of a Unix socket. */
  readonly path?: string;
  /** Of a TCP socket. */
  readonly port?: number;
  /** Removes what the socket left in the file system; the descriptor is the server's by then. */
  remove(): void;
}

const DEFAULT_ADDRESS = '127.0.0.1';

/** The sockets in the order of preference for the URI; all or none are open. */
export async function openListeners(options: ListenOptions): Promise<ListeningSocket[]> {
  const sockets: ListeningSocket[] = [];
  try {
    if (options.unix !== undefined) {
      const socket = await listenUnix(options.unix);
      sockets.push({ ...socket, uri: unixUri(options.exportName, socket.path, options.isTlsRequired) });
    }
    if (options.unix === undefined || options.port !== undefined || options.bind !== undefined) {
      sockets.push(await listenTcp(options));
    }
    return sockets;
  } catch (error) {
    for (const socket of sockets) {
      closeSync(socket.fd);
      socket.remove();
    }
    throw error;
  }
}

/** Throws a CommandError where strangers could read what clients send. */
export function assertPrivate(
  address: string,
  {
    isTlsRequired,
    allowPlaintext,
    plaintextHint = '--tls require encrypts, --allow-plaintext dares',
  }: Pick<ListenOptions, 'isTlsRequired' | 'allowPlaintext' | 'plaintextHint'>,
): void {
  if (!isTlsRequired && !allowPlaintext && !isLoopback(address)) {
    throw new CommandError(
      `Refusing to serve in plaintext on ${address}, which is not a loopback address (${plaintextHint})`,
    );
  }
}

async function listenTcp(options: ListenOptions): Promise<ListeningSocket> {
  const host = options.bind ?? DEFAULT_ADDRESS;
  const port = options.port ?? NBD_DEFAULT_PORT;
  const address = await resolveAddress(host);
  assertPrivate(address, options);
  const fd = native.listen_tcp(address, port, LISTEN_BACKLOG);
  if (fd < 0) {
    throw new CommandError(`Cannot listen on ${host} port ${port}: ${tcpReason(fd)}`);
  }
  const bound = native.local_port(fd);
  const uri = tcpUri(options.exportName, address, bound, options.isTlsRequired);
  return { fd, uri, port: bound, remove: () => {} };
}

async function resolveAddress(host: string): Promise<string> {
  if (host === '') {
    throw new CommandError('--bind needs an address or a host name');
  }
  try {
    const { address } = await lookup(host);
    return address;
  } catch (error) {
    throw new CommandError(`Cannot resolve "${host}": ${(error as NodeJS.ErrnoException).code ?? error}`);
  }
}

function tcpReason(result: number): string {
  const errno = errnoOf(result);
  switch (errno) {
    case EADDRINUSE:
      return 'the port is in use (--port 0 picks a free one)';
    case EADDRNOTAVAIL:
      return 'this machine has no such address';
    case EACCES:
      return 'permission denied';
    default:
      return errnoName(errno);
  }
}

/** Whether a numeric address is reached from this machine only. */
export function isLoopback(address: string): boolean {
  const loopback = new BlockList();
  loopback.addSubnet('127.0.0.0', 8);
  loopback.addAddress('::1', 'ipv6');
  return loopback.check(address, isIPv6(address) ? 'ipv6' : 'ipv4');
}
