/** A server inside a program of somebody else's: for tests above all. It leaves the process as it is. */
import { pino } from 'pino';
import { openListeners } from '../cli/listen.ts';
import { CONNECTION_COUNT_DEFAULT, HANDSHAKE_SECONDS_DEFAULT } from '../limits.ts';
import type { ServerLogger } from '../log.ts';
import { CustomPlugin } from '../plugins/custom/custom-plugin.ts';
import type { ExportDefinition } from '../plugins/custom/definition.ts';
import { assertWireString } from '../plugins/custom/definition-check.ts';
import { Counters } from '../server/counters.ts';
import { ExportRegistry } from '../server/export-registry.ts';
import { Server } from '../server/server.ts';

/** Where and how `serve` listens; all of it may be left out. */
export interface ServeOptions {
  /** Path of a Unix socket of mode 0600. Without it, and without `port` and `bind`: a private temporary one. */
  readonly unix?: string | undefined;
  /** TCP port on `bind`; 0 picks a free one, which is also the default when only `bind` is given. */
  readonly port?: number | undefined;
  /** Loopback address or host name for TCP; 127.0.0.1 unless given. */
  readonly bind?: string | undefined;
  /** Serves in plaintext beyond loopback; refused otherwise. */
  readonly allowPlaintext?: boolean | undefined;
  /** At most 4096 bytes of UTF-8; empty unless given. */
  readonly exportName?: string | undefined;
  /** For people, in place of the definition's own. */
  readonly description?: string | undefined;
  /** Refuses every write, whatever the definition can do. */
  readonly isReadOnly?: boolean | undefined;
  /** Gets every line; a pino logger is one. Unless given, warnings and errors go to standard error as JSON lines. */
  readonly log?: ServerLogger | undefined;
}

/** Where a server listens. */
export type ServerAddress = UnixAddress | TcpAddress;

/** A Unix socket. */
export interface UnixAddress {
  /** Tells it from a TcpAddress. */
  readonly kind: 'unix';
  /** Absolute. */
  readonly path: string;
}

/** A TCP socket. */
export interface TcpAddress {
  /** Tells it from a UnixAddress. */
  readonly kind: 'tcp';
  /** A numeric IPv4 or IPv6 address. */
  readonly host: string;
  /** Also when it was picked by the kernel. */
  readonly port: number;
}

/** A server in this process; `await using` closes it. */
export interface RunningServer extends AsyncDisposable {
  /** For clients: `nbd+unix:///NAME?socket=PATH` or `nbd://HOST:PORT/NAME`. */
  readonly uri: string;
  /** The same in parts. */
  readonly address: ServerAddress;
  /** Clients that are connected now. */
  readonly connectionCount: number;
  /**
   * Stops accepting, answers what is in flight (10 s at most), flushes, unloads the device and removes the socket.
   * Rejects when acknowledged data may be lost. Later calls return the same promise.
   */
  close(): Promise<void>;
}

/**
 * Serves a device inside this process. Rejects with a TypeError or a RangeError when it is no definition, and with
 * an Error of one line when it cannot listen. It installs no signal handlers and writes nothing to standard output;
 * while it listens it keeps the process alive.
 */
export async function serve<Handle = undefined>(
  definition: ExportDefinition<Handle>,
  options: ServeOptions = {},
): Promise<RunningServer> {
  const { unix, port, bind, exportName = '' } = options;
  assertWireString('exportName', exportName);
  assertWireString('description', options.description);
  const plugin = CustomPlugin.create(definition, { isReadOnly: options.isReadOnly ?? false });
  const isTcp = port !== undefined || bind !== undefined;
  const sockets = await openListeners({
    unix: unix ?? (isTcp ? undefined : '-'),
    port: isTcp ? (port ?? 0) : undefined,
    bind,
    allowPlaintext: options.allowPlaintext ?? false,
    plaintextHint: 'allowPlaintext: true dares',
    isTlsRequired: false,
    exportName,
  });
  const server = new Server({
    registry: new ExportRegistry([
      {
        name: exportName,
        description: options.description ?? plugin.description ?? '',
        plugin: plugin.guarded(),
      },
    ]),
    log: options.log ?? pino({ level: 'warn', base: null }, process.stderr),
    counters: new Counters(false),
    connectionCountMax: CONNECTION_COUNT_DEFAULT,
    handshakeSeconds: HANDSHAKE_SECONDS_DEFAULT,
    // The event loop belongs to the program.
    busyPollMicroseconds: 0,
    tls: undefined,
  });
  for (const { fd } of sockets) {
    server.listen(fd);
  }
  let closing: Promise<void> | undefined;
  const close = (): Promise<void> => {
    closing ??= server.close().finally(() => {
      for (const socket of sockets) {
        socket.remove();
      }
    });
    return closing;
  };
  const uri = sockets[0]?.uri ?? '';
  return {
    uri,
    address: addressOf(uri),
    get connectionCount() {
      return server.connectionCount;
    },
    close,
    [Symbol.asyncDispose]: close,
  };
}

function addressOf(uri: string): ServerAddress {
  const url = new URL(uri);
  const path = url.searchParams.get('socket');
  return path === null
    ? { kind: 'tcp', host: url.hostname.replaceAll(/[[\]]/g, ''), port: Number(url.port) }
    : { kind: 'unix', path };
}
