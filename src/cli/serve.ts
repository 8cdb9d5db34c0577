/** From opened exports to the exit code: listen, say so, serve until there is a reason to end, end in order. */
import type { Logger as PinoLogger } from 'pino';
import { applyFilters, isInnerReadOnly } from '../filters/apply.ts';
import type { LogFields } from '../log.ts';
import type { ExportSource } from '../plugins/export-source.ts';
import type { Plugin } from '../plugins/plugin.ts';
import type { WindowCounter } from '../plugins/window-counter.ts';
import { Counters } from '../server/counters.ts';
import { ExportRegistry } from '../server/export-registry.ts';
import { Server } from '../server/server.ts';
import type { ServingThreads } from '../server/threads.ts';
import { announce, readyStatus } from './announce.ts';
import { Leftovers } from './leftovers.ts';
import { type ListeningSocket, type ListenOptions, openListeners } from './listen.ts';
import { loadTls, reloadOnHangup } from './load-tls.ts';
import { openLog } from './logging.ts';
import { openStatusServer } from './metrics-options.ts';
import { optimizeEarly } from './optimize-early.ts';
import { PidFile } from './pid-file.ts';
import { commandVariables, type RunningCommand, runCommand } from './run-command.ts';
import { ServiceManager } from './service-manager.ts';
import type { ServingOptions } from './serving-options.ts';
import { startThreads, startThreadsBehind, ThreadsInUse, threadCountOf } from './serving-threads.ts';
import { inheritedSockets } from './socket-activation.ts';
import { StopReasons } from './stop-reasons.ts';

/** What a plugin is given. */
export interface PluginContext {
  readonly log: PinoLogger;
  /** To be called when acknowledged data is lost. */
  readonly onLoss: () => void;
  /** Nothing will be written: the operator said so, or a filter keeps the writes. */
  readonly isReadOnly: boolean;
  readonly threadCount: number;
  readonly windowCounter: WindowCounter;
  /** Aborted when the server begins to end. */
  readonly stopping: AbortSignal;
}

/** Opens what is served; it is called once, before anything listens. */
export type OpenPlugin = (context: PluginContext) => Promise<Plugin>;
export type OpenExports = (context: PluginContext) => Promise<ExportSource>;

/**
 * Serves one plugin, and the filters on top of it, under the name of the options. `about`: what the log's first
 * line says of it.
 */
export function serve(options: ServingOptions, openPlugin: OpenPlugin, about: LogFields): Promise<number> {
  const { exportName: name, filter: filters, readOnly } = options;
  const openExports: OpenExports = async (context) => {
    const isReadOnly = readOnly || isInnerReadOnly(filters);
    const inner = await openPlugin({ ...context, isReadOnly });
    const description = options.description || (inner.description ?? '');
    const plugin = await applyFilters(inner, filters, context);
    return new ExportRegistry([{ name, description, plugin }]);
  };
  return serveExports(options, openExports, about);
}

/** Serves until there is a reason to end. Resolves with the exit code. */
export async function serveExports(
  options: ServingOptions,
  openExports: OpenExports,
  about: LogFields,
): Promise<number> {
  const { log, write, end } = openLog(options);
  const leftovers = new Leftovers(log);
  using stop = new StopReasons();
  using manager = ServiceManager.fromEnvironment(process.env, log);
  const threads = new ThreadsInUse();
  let code = 1;
  try {
    const surroundings = { options, log, writeLog: write, leftovers, stop, manager, threads };
    code = await Promise.race([run(surroundings, openExports, about), stop.insisted]);
    return code;
  } catch (error) {
    // Whoever tells it must still run.
    await threads.started?.terminate();
    throw error;
  } finally {
    leftovers.removeAll();
    const isLogWritten = await end();
    threads.exitNow(code, stop.isInsisted || !isLogWritten);
  }
}

interface Surroundings {
  readonly options: ServingOptions;
  readonly log: PinoLogger;
  /** Takes a line that is formatted already, as JSON. */
  readonly writeLog: (line: string) => void;
  readonly leftovers: Leftovers;
  readonly stop: StopReasons;
  readonly manager: ServiceManager;
  readonly threads: ThreadsInUse;
}

async function run(surroundings: Surroundings, openExports: OpenExports, about: LogFields): Promise<number> {
  const { options, log, writeLog, leftovers, stop, manager } = surroundings;
  const listenOptions = { ...options, isTlsRequired: options.tls === 'require' };
  const inherited = inheritedSockets(process.env, listenOptions);
  const pidFile = options.pidFile === undefined ? undefined : PidFile.prepare(options.pidFile);
  leftovers.add(() => pidFile?.remove());
  const tls = await loadTls(options, log);
  const counters = new Counters(options.metrics !== undefined);
  await using status = await openStatusServer(options.metrics, options.allowPlaintext, log);
  const exports = await openExports({
    log,
    onLoss: () => onLoss(options, stop),
    isReadOnly: options.readOnly,
    threadCount: threadCountOf(options),
    windowCounter: counters,
    stopping: stop.stopping,
  });
  let threads: ServingThreads | undefined;
  let sockets = inherited;
  let removeSockets: readonly (() => void)[];
  try {
    threads = await startThreads(options, exports, tls, writeLog);
    surroundings.threads.started = threads;
    if (sockets.length === 0) {
      sockets = await openListeners(withPrivateSocket(listenOptions));
    }
    removeSockets = sockets.map((socket) => leftovers.add(() => socket.remove()));
    // The sockets listen: from now on clients can connect, and wait to be accepted.
    pidFile?.publish();
  } catch (error) {
    await threads?.terminate();
    await exports.abandon();
    throw error;
  }

  threads ??= startThreadsBehind(options, exports, tls, writeLog, log);
  surroundings.threads.started = threads;
  const server = new Server({
    registry: exports,
    log,
    counters,
    connectionCountMax: options.maxConnections,
    handshakeSeconds: options.handshakeTimeout,
    busyPollMicroseconds: options.busyPoll,
    tls,
    threads,
    threadCount: threadCountOf(options),
    onLastLeft: options.exitLast ? () => stop.request('the last client has left') : undefined,
  });
  optimizeEarly();
  for (const { fd } of sockets) {
    server.listen(fd);
  }
  status?.show({
    counterMemories: () => [counters.memory, ...(threads?.counterMemories ?? [])],
    exports: () => exports.opened(),
  });
  using _reloading = reloadOnHangup(tls, threads, manager, readyStatus(sockets));
  await announce(surroundings, sockets, exports, about);
  const command = startCommand(surroundings, sockets);
  // It has ended by itself unless a second signal ends the server before it.
  leftovers.add(() => command?.stop('SIGKILL'));
  threads?.onDeath(() => stop.request('a thread that serves has ended'));
  const reason = await stop.requested;

  if (threads?.died.aborted === true) {
    // At once, not half the clients now and the others later.
    log.fatal({ err: threads.died.reason }, 'A thread that serves has ended, and the server with it');
    command?.stop('SIGKILL');
    return 1;
  }
  log.info({ reason: reason.text }, 'Shutting down');
  const told = manager.stopping(reason.text);
  for (const remove of removeSockets) {
    remove();
  }
  command?.stop(reason.signal ?? 'SIGTERM');
  const code = await closeServer(server, log);
  const commandStatus = await command?.ended;
  await told;
  return commandStatus || code;
}

/** A command without any listener option gets a socket that nobody else finds. */
function withPrivateSocket<Options extends ListenOptions & Pick<ServingOptions, 'run'>>(
  options: Options,
): Options {
  const { unix, port, bind, run: command } = options;
  const isPrivate = command !== undefined && (unix ?? port ?? bind) === undefined;
  return isPrivate ? { ...options, unix: '-' } : options;
}

function onLoss({ onFlushError }: ServingOptions, stop: StopReasons): void {
  if (onFlushError === 'exit') {
    stop.request('data loss');
  }
}

function startCommand(
  { options, log, stop }: Surroundings,
  sockets: readonly ListeningSocket[],
): RunningCommand | undefined {
  if (options.run === undefined) {
    return undefined;
  }
  const command = runCommand(options.run, commandVariables(sockets, options.exportName), log);
  void command.ended.then(() => stop.request('the command has ended'));
  return command;
}

/** The exit code. */
async function closeServer(server: Server, log: PinoLogger): Promise<number> {
  try {
    await server.close();
    return 0;
  } catch (error) {
    log.error({ err: error }, 'Acknowledged data may be lost');
    return 1;
  }
}
