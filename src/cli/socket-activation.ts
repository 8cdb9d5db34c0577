/** Listening sockets that were there before the server (sd_listen_fds(3)): systemd's socket activation. */
import { native } from '../native/binding.ts';
import { errnoName, errnoOf } from '../native/errno.ts';
import { CommandError } from './command-error.ts';
import { assertPrivate, type ListeningSocket, type ListenOptions } from './listen.ts';
import type { ServingOptions } from './serving-options.ts';
import { tcpUri, unixUri } from './uri.ts';

/** SD_LISTEN_FDS_START */
const FIRST_DESCRIPTOR = 3;

const VARIABLES = ['LISTEN_PID', 'LISTEN_FDS', 'LISTEN_FDNAMES'] as const;

/** AF_UNIX on Linux. */
const AF_UNIX = 1;

/**
 * The sockets that this process was given, ready to be listened on; empty when it was given none. Takes the
 * variables out of the environment: children have no such descriptors. Throws a CommandError.
 */
export function inheritedSockets(
  environment: NodeJS.ProcessEnv,
  options: ListenOptions & Pick<ServingOptions, 'run'>,
): ListeningSocket[] {
  const [pid, fds, names] = VARIABLES.map((name) => {
    const value = environment[name];
    delete environment[name];
    return value;
  });
  // Somebody else's: whoever started us has forgotten to unset them.
  if (fds === undefined || pid !== String(process.pid)) {
    return [];
  }
  const count = /^\d{1,6}$/.test(fds) ? Number(fds) : 0;
  if (count === 0) {
    throw new CommandError(`Cannot use the sockets of the service manager: $LISTEN_FDS is "${fds}"`);
  }
  if (options.run !== undefined) {
    throw new CommandError('--run cannot be combined with the sockets of a service manager');
  }
  if (options.unix !== undefined || options.port !== undefined || options.bind !== undefined) {
    throw new CommandError(
      '--unix, --port and --bind cannot be combined with the sockets of a service manager',
    );
  }
  return Array.from({ length: count }, (_, index) =>
    adopt(FIRST_DESCRIPTOR + index, names?.split(':')[index] ?? '', options),
  );
}

function adopt(fd: number, name: string, options: ListenOptions): ListeningSocket {
  const label = `descriptor ${fd}${name === '' ? '' : ` (${name})`} of the service manager`;
  const family = native.adopt_listener(fd);
  const address = family < 0 ? family : native.local_address(fd);
  if (typeof address === 'number') {
    throw new CommandError(
      `Cannot serve on ${label}: it is no listening stream socket (${errnoName(errnoOf(address))})`,
    );
  }
  // The file is the service manager's, and stays.
  const remove = (): void => {};
  if (family === AF_UNIX) {
    if (address === '') {
      throw new CommandError(`Cannot serve on ${label}: a socket without a path has no NBD URI`);
    }
    return { fd, uri: unixUri(options.exportName, address, options.isTlsRequired), path: address, remove };
  }
  assertPrivate(address, options);
  const port = native.local_port(fd);
  return { fd, uri: tcpUri(options.exportName, address, port, options.isTlsRequired), port, remove };
}
