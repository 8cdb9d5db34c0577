/**
 * The entry of a thread that serves: connections by their descriptors, exports through the modules that their
 * plugins name. Whatever is thrown here and not caught ends the thread, and with it the process (threads.ts).
 */
import { type MessagePort, parentPort, workerData } from 'node:worker_threads';
import { pino } from 'pino';
import type { ServedExport, SharedExport } from '../plugins/export-source.ts';
import type { AttachContext, AttachPlugin } from '../plugins/plugin.ts';
import { Counters } from './counters.ts';
import { ExportRegistry } from './export-registry.ts';
import { Server } from './server.ts';
import type { FromThread, ThreadSetup, ToThread } from './thread-messages.ts';
import { tlsContext } from './tls.ts';

if (parentPort === null) {
  throw new Error('Bug: this module is for worker threads');
}
await start(parentPort, workerData as ThreadSetup);

async function start(port: MessagePort, setup: ThreadSetup): Promise<void> {
  const { threadCount } = setup;
  const tell = (message: FromThread): void => {
    port.postMessage(message);
  };
  // The main thread writes the log: lines that several threads write to a full pipe would run into each other.
  const write = (line: string): void => tell({ type: 'log', line });
  const log = pino({ level: setup.logLevel, base: null }, { write });
  const counters = new Counters(setup.isTiming);
  const context = { log, thread: setup.thread, threadCount, windowCounter: counters };
  const exports = await Promise.all(setup.exports.map((shared) => attach(shared, context)));
  const credentials = setup.tls && { context: tlsContext(setup.tls.material) };
  const server = new Server({
    registry: new ExportRegistry(exports),
    log,
    // The main thread counts the connections of all threads, and hands on no more than there may be.
    connectionCountMax: Number.POSITIVE_INFINITY,
    counters,
    handshakeSeconds: setup.handshakeSeconds,
    busyPollMicroseconds: setup.busyPollMicroseconds,
    tls: setup.tls && credentials && { mode: setup.tls.mode, credentials },
    threadCount,
  });
  port.on('message', (message: ToThread) => {
    switch (message.type) {
      case 'connection':
        void server.serve(message.fd, message.number).then((hasOpened) => {
          tell({ type: 'connection-closed', number: message.number, hasOpened });
        });
        break;
      case 'tls':
        if (credentials !== undefined) {
          credentials.context = tlsContext(message.material);
        }
        break;
      case 'close':
        void server.close().then(
          () => tell({ type: 'closed', error: undefined }),
          (error: unknown) =>
            tell({ type: 'closed', error: error instanceof Error ? error.message : String(error) }),
        );
        break;
    }
  });
  tell({ type: 'ready', counterMemory: counters.memory });
}

async function attach(
  { name, description, module, data }: SharedExport,
  context: AttachContext,
): Promise<ServedExport> {
  const { attachPlugin } = (await import(module)) as { readonly attachPlugin: AttachPlugin };
  return { name, description, plugin: await attachPlugin(data, context) };
}
