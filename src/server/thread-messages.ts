/** What the main thread and the threads that serve tell each other: a few messages a connection, none a request. */
import type { SharedExport } from '../plugins/export-source.ts';
import type { TlsMaterial, TlsSetup } from './tls.ts';

/** What a thread is started with. */
export interface ThreadSetup {
  /** From 1 to below `threadCount`; the main thread has 0. */
  readonly thread: number;
  /** Threads that serve, the main one included. */
  readonly threadCount: number;
  readonly exports: readonly SharedExport[];
  readonly logLevel: string;
  readonly handshakeSeconds: number;
  readonly busyPollMicroseconds: number;
  /** Read the clock for latencies. */
  readonly isTiming: boolean;
  /** Undefined: TLS is off. */
  readonly tls: { readonly mode: TlsSetup['mode']; readonly material: TlsMaterial } | undefined;
}

export type ToThread =
  | { readonly type: 'connection'; readonly fd: number; readonly number: number }
  /** For the connections that come after it. */
  | { readonly type: 'tls'; readonly material: TlsMaterial }
  | { readonly type: 'close' };

export type FromThread =
  | { readonly type: 'ready'; readonly counterMemory: SharedArrayBuffer }
  /** One line of the log, its newline included. */
  | { readonly type: 'log'; readonly line: string }
  | { readonly type: 'connection-closed'; readonly number: number; readonly hasOpened: boolean }
  /** The answer to `close`: everything is answered and let go of, unless `error` says otherwise. */
  | { readonly type: 'closed'; readonly error: string | undefined };
