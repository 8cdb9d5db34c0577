/** That clients can connect: to the log, to whoever reads standard output, and to the service manager. */
import type { LogFields, Logger } from '../log.ts';
import type { ExportSource } from '../plugins/export-source.ts';
import type { ListeningSocket } from './listen.ts';
import { print } from './print.ts';
import type { ServiceManager } from './service-manager.ts';
import type { ServingOptions } from './serving-options.ts';

export interface Audience {
  readonly options: Pick<ServingOptions, 'exportName' | 'run'>;
  readonly log: Logger;
  readonly manager: ServiceManager;
}

/** `about`: what else the log's line says of the exports. */
export async function announce(
  { options, log, manager }: Audience,
  sockets: readonly ListeningSocket[],
  exports: ExportSource,
  about: LogFields,
): Promise<void> {
  const { exportName, run: command } = options;
  const [uri = '', ...alsoAt] = sockets.map((socket) => socket.uri);
  const size = await sizeOf(exports, exportName);
  log.info({ uri, ...(alsoAt.length > 0 && { alsoAt }), export: exportName, size, ...about }, 'Serving');
  // With --run, standard output belongs to the command.
  if (command === undefined) {
    print(`${uri}\n`);
  }
  void manager.ready(readyStatus(sockets));
}

/** One line for people. */
export function readyStatus(sockets: readonly ListeningSocket[]): string {
  return `Serving ${sockets.map(({ uri }) => uri).join(' ')}`;
}

/** Bytes; undefined for an export that is not there, or not yet. */
async function sizeOf(exports: ExportSource, name: string): Promise<number | undefined> {
  try {
    return (await exports.describe(name))?.size;
  } catch {
    // A file of a directory that cannot be opened now; when somebody asks for it, the log tells why.
    return undefined;
  }
}
