/**
 * The server: listening sockets, the connections that came from them, and an orderly end. It is handed
 * listening descriptors that are open already, so that every error of the command line comes before it.
 */
import { close as closeDescriptor } from 'node:fs';
import { setTimeout as delay } from 'node:timers/promises';
import {
  ACCEPT_PAUSE_MS,
  LAST_FLUSH_SECONDS_MAX,
  POOL_THREAD_COUNT_ALL,
  POOL_THREAD_COUNT_MAX,
  POOL_THREAD_COUNT_MIN,
  SHUTDOWN_SECONDS_MAX,
} from '../limits.ts';
import type { ServerLogger } from '../log.ts';
import { type Listener, native } from '../native/binding.ts';
import { errnoName, errnoOf } from '../native/errno.ts';
import type { ExportSource } from '../plugins/export-source.ts';
import { BufferPool } from './buffer-pool.ts';
import { Connection, type ConnectionContext } from './connection.ts';
import type { Counters } from './counters.ts';
import { ProcessBudget } from './inflight-budget.ts';
import type { TlsSetup } from './tls.ts';

export type { ServerLogger };

export interface ServerOptions {
  readonly registry: ExportSource;
  readonly log: ServerLogger;
  readonly counters: Counters;
  /** Connections at a time; further ones are closed at once. */
  readonly connectionCountMax: number;
  /** From accept to the start of transmission. */
  readonly handshakeSeconds: number;
  /** How long this thread polls after serving, before it sleeps (native/busy_poll.h). 0: not at all. */
  readonly busyPollMicroseconds: number;
  /** Undefined: TLS is off. */
  readonly tls: TlsSetup | undefined;
  /** Called whenever nobody is connected any more, once a client has opened an export. */
  readonly onLastLeft?: (() => void) | undefined;
  /** Threads that serve beside this one. */
  readonly threads?: Threads | undefined;
  /** Threads that serve, this one included: they divide what the process may use. Default: 1. */
  readonly threadCount?: number;
}

/** Who serves connections beside the thread that accepts them. */
export interface Threads {
  readonly connectionCount: number;
  /** Of the thread that has the fewest; Infinity while none can serve. */
  readonly leastConnectionCount: number;
  /** Takes over the connected descriptor `fd`, as the server's own `serve`. */
  serve(fd: number, number: number): Promise<boolean>;
  /** Answers what is in flight; rejects when that cannot be done. */
  close(): Promise<void>;
}

export class Server {
  readonly #options: ServerOptions;
  readonly #context: ConnectionContext;
  readonly #listeners: Listener[] = [];
  readonly #connections = new Set<Connection>();
  /** Counts up, to tell connections apart in the log. */
  #connectionNumber = 0;
  /** A client has opened an export; whoever only looks (a port scan, a health check) is no client. */
  #hasServed = false;
  #closing: Promise<void> | undefined;

  constructor(options: ServerOptions) {
    this.#options = options;
    native.set_busy_poll(options.busyPollMicroseconds, (options.threadCount ?? 1) > 1);
    native.set_pool_size(poolThreadCount(options.threadCount));
    this.#context = {
      registry: options.registry,
      pool: new BufferPool(options.threadCount),
      budget: new ProcessBudget(options.threadCount),
      log: options.log,
      counters: options.counters,
      handshakeSeconds: options.handshakeSeconds,
      tls: options.tls,
    };
  }

  get connectionCount(): number {
    return this.#connections.size + (this.#options.threads?.connectionCount ?? 0);
  }

  /** Accepts from a listening descriptor, which the server owns from now on. */
  listen(fd: number): void {
    const listener = new native.Listener(fd, (result) => {
      this.#accepted(listener, result);
    });
    this.#listeners.push(listener);
  }

  /**
   * Serves the connected descriptor `fd`, whose `number` names it in the log, in this thread until it is closed.
   * Resolves then, with whether the client has opened an export.
   */
  async serve(fd: number, number: number): Promise<boolean> {
    const log = this.#options.log.child({ connection: number });
    let connection: Connection;
    try {
      connection = new Connection(fd, this.#context, log);
    } catch (error) {
      // No memory, or no room in fs.epoll.max_user_watches: one connection is lost, not the server.
      log.error({ err: error }, 'The connection cannot be served');
      closeDescriptor(fd);
      return false;
    }
    this.#connections.add(connection);
    await connection.closed;
    this.#connections.delete(connection);
    return connection.hasOpened;
  }

  /**
   * Stops accepting, answers what is in flight, flushes and closes the exports. Rejects when acknowledged
   * data may not be on stable storage. Later calls return the same promise.
   */
  close(): Promise<void> {
    this.#closing ??= this.#close();
    return this.#closing;
  }

  #accepted(listener: Listener, result: number): void {
    if (result < 0) {
      const errno = errnoName(errnoOf(result));
      this.#options.log.warn({ errno }, `Cannot accept connections; trying again in ${ACCEPT_PAUSE_MS} ms`);
      setTimeout(() => {
        if (this.#closing === undefined) {
          listener.resume();
        }
      }, ACCEPT_PAUSE_MS);
      return;
    }
    const { connectionCountMax } = this.#options;
    if (this.connectionCount >= connectionCountMax) {
      this.#options.counters.connectionRefused();
      this.#options.log.warn({ connectionCountMax }, 'Too many connections; a new one was closed');
      closeDescriptor(result);
      return;
    }
    this.#connectionNumber += 1;
    void this.#leastLoaded.serve(result, this.#connectionNumber).then((hasOpened) => {
      this.#hasServed ||= hasOpened;
      if (this.#hasServed && this.connectionCount === 0) {
        this.#options.onLastLeft?.();
      }
    });
  }

  /** This thread where another has no fewer connections. */
  get #leastLoaded(): Pick<Threads, 'serve'> {
    const { threads } = this.#options;
    return threads !== undefined && threads.leastConnectionCount < this.#connections.size ? threads : this;
  }

  async #close(): Promise<void> {
    for (const listener of this.#listeners) {
      listener.close();
    }
    // Both to their end, whatever becomes of one.
    const results = await Promise.allSettled([this.#endConnections(), this.#options.threads?.close()]);
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) {
      await this.#flushUnended();
      throw failed.reason;
    }
    await this.#options.registry.close();
  }

  /**
   * Some requests do not end, and their handles stay in use; what the others were answered is flushed all the same.
   * Whatever comes of it, the server has not ended in order.
   */
  async #flushUnended(): Promise<void> {
    const { registry, log } = this.#options;
    const flushed = registry.settle().then(
      () => log.warn({}, 'The exports were flushed although requests are still in flight'),
      (error: unknown) => log.error({ err: error }, 'The last flush failed'),
    );
    if (!(await settlesInTime(flushed, LAST_FLUSH_SECONDS_MAX))) {
      log.error({}, `The last flush does not end within ${LAST_FLUSH_SECONDS_MAX} s`);
    }
  }

  async #endConnections(): Promise<void> {
    const connections = [...this.#connections];
    for (const connection of connections) {
      connection.shutDown();
    }
    const closed = Promise.all(connections.map((connection) => connection.closed));
    if (!(await settlesInTime(closed, SHUTDOWN_SECONDS_MAX))) {
      this.#options.log.warn({}, `Requests are still in flight after ${SHUTDOWN_SECONDS_MAX} s; cut off`);
      for (const connection of connections) {
        connection.cut();
      }
      if (!(await settlesInTime(closed, SHUTDOWN_SECONDS_MAX))) {
        throw new Error('Requests in flight do not end; whether their data was flushed is unknown');
      }
    }
  }
}

/** Of this thread's pool. */
function poolThreadCount(threadCount = 1): number {
  const share = Math.floor(POOL_THREAD_COUNT_ALL / threadCount);
  return Math.min(Math.max(share, POOL_THREAD_COUNT_MIN), POOL_THREAD_COUNT_MAX);
}

/** Whether `work`, which never rejects, is done within `seconds`. */
async function settlesInTime(work: Promise<unknown>, seconds: number): Promise<boolean> {
  const abort = new AbortController();
  const late = delay(seconds * 1000, false, { signal: abort.signal }).catch(() => false);
  try {
    return await Promise.race([work.then(() => true), late]);
  } finally {
    abort.abort();
  }
}
