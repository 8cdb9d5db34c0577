/** `--metrics [address:]port`: what it says, and the server behind it. */
import { lookup } from 'node:dns/promises';
import { isIPv6 } from 'node:net';
import { InvalidArgumentError } from '@commander-js/extra-typings';
import type { Logger } from '../log.ts';
import type { StatusServer } from '../metrics/status-server.ts';
import { CommandError } from './command-error.ts';
import { isLoopback } from './listen.ts';

const DEFAULT_ADDRESS = '127.0.0.1';

export interface MetricsListen {
  /** An address or a host name, without brackets. */
  readonly host: string;
  /** 0 picks a free one. */
  readonly port: number;
}

/** `9100`, `0.0.0.0:9100`, `[::1]:9100`, `localhost:9100`. */
export function metricsListen(text: string): MetricsListen {
  const match = /^(?:(?:\[(?<ipv6>[^\]]*)\]|(?<host>[^:[\]]+)):)?(?<port>\d{1,5})$/.exec(text);
  const { ipv6, host = DEFAULT_ADDRESS, port } = match?.groups ?? {};
  if (match === null || Number(port) > 65_535 || (ipv6 !== undefined && !isIPv6(ipv6))) {
    throw new InvalidArgumentError(
      'Give a port, or an address and a port, such as 9100, 0.0.0.0:9100 or [::1]:9100.',
    );
  }
  return { host: ipv6 ?? host, port: Number(port) };
}

/**
 * Listens, and has nothing to show yet. Nothing is loaded or listens without the option. There is no TLS here: whatever
 * `--tls` says of the clients, only `allowPlaintext` opens it to other machines.
 */
export async function openStatusServer(
  listen: MetricsListen | undefined,
  allowPlaintext: boolean,
  log: Logger,
): Promise<StatusServer | undefined> {
  if (listen === undefined) {
    return undefined;
  }
  const { host, port } = listen;
  try {
    const { address } = await lookup(host);
    if (!allowPlaintext && !isLoopback(address)) {
      throw new CommandError(
        `Refusing to serve metrics in plaintext on ${address}, which is not a loopback address (--allow-plaintext dares)`,
      );
    }
    const { StatusServer: Server } = await import('../metrics/status-server.ts');
    const server = await Server.listen({ address, port, isLoopback: isLoopback(address) }, log);
    if (isLoopback(address)) {
      log.info({ url: server.url }, 'Metrics and the status page are served');
    } else {
      log.warn({ url: server.url }, 'Metrics and the status page are served to whoever reaches this address');
    }
    return server;
  } catch (error) {
    if (error instanceof CommandError) {
      throw error;
    }
    const { code } = error as NodeJS.ErrnoException;
    throw new CommandError(`Cannot serve metrics on ${host} port ${port}: ${reason(code) ?? String(error)}`);
  }
}

function reason(code: string | undefined): string | undefined {
  switch (code) {
    case 'EADDRINUSE':
      return 'the port is in use (--metrics 0 picks a free one)';
    case 'EADDRNOTAVAIL':
      return 'this machine has no such address';
    case 'EACCES':
      return 'permission denied';
    case 'ENOTFOUND':
      return 'there is no such host';
    default:
      return code;
  }
}
