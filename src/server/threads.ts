/**
 * The threads that serve beside the main one, as that sees them (`--threads`). It accepts; a connection then belongs to
 * one thread for life, itself included. Descriptors are the process's, so that a number is all that travels.
 *
 *   main: accept, limits, signals, log, plugins, ──descriptor──► thread: connections, handles, byte budget
 *         and what a thread does                 ◄──closed, log──
 *
 * A thread that ends on its own takes the process down: its clients' requests are lost, and whatever it was about
 * to do for the other threads, too.
 */
import { extname } from 'node:path';
import { Worker } from 'node:worker_threads';
import type { FromThread, ThreadSetup, ToThread } from './thread-messages.ts';
import type { TlsMaterial } from './tls.ts';

/** A thread that ended although nobody had told it to. */
export class ThreadDiedError extends Error {
  override readonly name = 'ThreadDiedError';
}

/** What is used of a `Worker`; a test puts fakes here. */
export interface WorkerThread {
  postMessage(message: ToThread): void;
  terminate(): Promise<unknown>;
  on(event: 'message', listener: (message: FromThread) => void): unknown;
  on(event: 'error', listener: (error: unknown) => void): unknown;
  on(event: 'exit', listener: (code: number) => void): unknown;
}

export interface ThreadsOptions extends Omit<ThreadSetup, 'thread'> {
  /** Where the threads' log lines go. */
  readonly log: { write(line: string): unknown };
  /** A thread that ends before it is ready is no death: the main thread serves without. Default: false. */
  readonly isOptional?: boolean;
  readonly startThread?: (setup: ThreadSetup) => WorkerThread;
}

export class ServingThreads {
  /** Resolves when all threads can serve; rejects with a ThreadDiedError when one of them cannot. */
  readonly ready: Promise<void>;
  readonly #threads: readonly ServingThread[];
  readonly #died = new AbortController();
  #isRunning = true;

  /** Starts one thread less than `threadCount`. */
  constructor(options: ThreadsOptions) {
    const { log, isOptional = false, startThread = startWorker, ...shared } = options;
    this.#threads = Array.from({ length: options.threadCount - 1 }, (_, index) => {
      const thread = 1 + index;
      const died = (error: ThreadDiedError, wasReady: boolean): void => {
        if (wasReady || !isOptional) {
          this.#died.abort(error);
        }
      };
      return new ServingThread(startThread({ ...shared, thread }), thread, log, died);
    });
    this.ready = Promise.all(this.#threads.map(({ ready }) => ready)).then(() => undefined);
    // Not unhandled: whoever wants to know waits for it.
    this.ready.catch(() => undefined);
  }

  get connectionCount(): number {
    return this.#threads.reduce((sum, { connectionCount }) => sum + connectionCount, 0);
  }

  /** Of the thread that has the fewest; Infinity while none can serve. */
  get leastConnectionCount(): number {
    return this.#least?.connectionCount ?? Number.POSITIVE_INFINITY;
  }

  get #least(): ServingThread | undefined {
    return this.#threads
      .filter(({ isReady }) => isReady)
      .sort((one, other) => one.connectionCount - other.connectionCount)[0];
  }

  /** What the threads have counted so far. */
  get counterMemories(): readonly SharedArrayBuffer[] {
    return this.#threads.flatMap(({ counterMemory }) => counterMemory ?? []);
  }

  /** False once all threads have ended in order. */
  get isRunning(): boolean {
    return this.#isRunning;
  }

  /** Aborted, with a ThreadDiedError, when a thread ends on its own. */
  get died(): AbortSignal {
    return this.#died.signal;
  }

  /** Calls `listener` when a thread ends on its own, also when it has done so already. */
  onDeath(listener: () => void): void {
    if (this.died.aborted) {
      listener();
    } else {
      this.died.addEventListener('abort', listener, { once: true });
    }
  }

  /**
   * Hands a connected descriptor to the thread with the fewest connections, when one can serve. Resolves when the
   * connection is closed, with whether its client has opened an export.
   */
  serve(fd: number, number: number): Promise<boolean> {
    const thread = this.#least;
    if (thread === undefined) {
      throw new Error('Bug: a connection for threads of which none is ready');
    }
    return thread.serve(fd, number);
  }

  /** Credentials for the connections that come from now on. */
  setTls(material: TlsMaterial): void {
    for (const thread of this.#threads) {
      thread.tell({ type: 'tls', material });
    }
  }

  /**
   * Has every thread answer what is in flight, within the deadlines of a shutdown, and ends it. Rejects when one
   * could not, or died; then the threads run on, because to end one takes as long as the disk calls in its pool. One that is
   * not ready yet has nothing to answer, and runs on, too: to end one as it begins has crashed Node (nodejs/node#25134).
   */
  async close(): Promise<void> {
    const ready = this.#threads.filter(({ isReady }) => isReady);
    for (const thread of ready) {
      thread.tell({ type: 'close' });
    }
    const results = await Promise.allSettled(ready.map(({ closed }) => closed));
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) {
      throw failed.reason;
    }
    await Promise.all(ready.map((thread) => thread.terminate()));
    this.#isRunning = ready.length < this.#threads.length;
  }

  /** Ends the threads as they are. */
  async terminate(): Promise<void> {
    await Promise.all(this.#threads.map((thread) => thread.terminate()));
    this.#isRunning = false;
  }
}

class ServingThread {
  /** By the number of the connection: what waits for its end. */
  readonly #connections = new Map<number, (hasOpened: boolean) => void>();
  /** Undefined until it is ready. */
  counterMemory: SharedArrayBuffer | undefined;
  readonly ready: Promise<void>;
  readonly closed: Promise<void>;

  readonly #worker: WorkerThread;
  #isTerminated = false;

  constructor(
    worker: WorkerThread,
    thread: number,
    log: ThreadsOptions['log'],
    died: (error: ThreadDiedError, wasReady: boolean) => void,
  ) {
    this.#worker = worker;
    const ready = deferred();
    const closed = deferred();
    this.ready = ready.promise;
    this.closed = closed.promise;
    worker.on('message', (message) => {
      switch (message.type) {
        case 'ready':
          this.counterMemory = message.counterMemory;
          return ready.resolve();
        case 'log':
          return void log.write(message.line);
        case 'connection-closed': {
          const closed = this.#connections.get(message.number);
          this.#connections.delete(message.number);
          return closed?.(message.hasOpened);
        }
        case 'closed':
          return message.error === undefined ? closed.resolve() : closed.reject(new Error(message.error));
      }
    });
    const end = (reason: string, cause: unknown): void => {
      if (!this.#isTerminated) {
        // An uncaught error is followed by an exit, which is no news.
        this.#isTerminated = true;
        const error = new ThreadDiedError(`Thread ${thread} ended: ${reason}`, { cause });
        ready.reject(error);
        closed.reject(error);
        died(error, this.isReady);
      }
    };
    worker.on('error', (error) => {
      end(error instanceof Error ? error.message : String(error), error);
    });
    worker.on('exit', (code) => {
      end(`exit code ${code}`, undefined);
    });
  }

  get connectionCount(): number {
    return this.#connections.size;
  }

  get isReady(): boolean {
    return this.counterMemory !== undefined;
  }

  serve(fd: number, number: number): Promise<boolean> {
    return new Promise((resolve) => {
      this.#connections.set(number, resolve);
      this.tell({ type: 'connection', fd, number });
    });
  }

  tell(message: ToThread): void {
    this.#worker.postMessage(message);
  }

  async terminate(): Promise<void> {
    this.#isTerminated = true;
    await this.#worker.terminate();
  }
}

interface Deferred {
  readonly promise: Promise<void>;
  resolve(): void;
  reject(error: Error): void;
}

/** Rejections that nobody waits for are no news: `died` tells them. */
function deferred(): Deferred {
  let settle: Omit<Deferred, 'promise'> | undefined;
  const promise = new Promise<void>((resolve, reject) => {
    settle = { resolve, reject };
  });
  promise.catch(() => {});
  return { promise, resolve: () => settle?.resolve(), reject: (error) => settle?.reject(error) };
}

/** Beside this module, built or as source. */
function startWorker(setup: ThreadSetup): Worker {
  return new Worker(new URL(`./worker${extname(import.meta.url)}`, import.meta.url), { workerData: setup });
}
