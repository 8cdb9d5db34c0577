import { connect } from 'node:net';
import { attempt, type CommandResult } from './command.ts';
import { eventually } from './polling.ts';
import { type NbdServer, PROGRAM, startServerAsGiven } from './server.ts';

/** What makes the sockets and starts a server when the first client comes. `-E` passes the variable on. */
function activator(options: readonly string[]): [string, ...string[]] {
  return ['systemd-socket-activate', '-E', 'NBD_SERVE_TEST_ID', ...options];
}

/** Of systemd, its errors only: what it says otherwise is no part of the server's log. */
const QUIET = { SYSTEMD_LOG_LEVEL: 'err' };

/** Connects as soon as somebody listens. */
async function knock(path: string): Promise<void> {
  await eventually(`somebody listens on ${path}`, () => {
    return new Promise<true | undefined>((resolve) => {
      const socket = connect(path);
      socket.once('error', () => resolve(undefined));
      socket.once('connect', () => {
        socket.end();
        resolve(true);
      });
    });
  });
}

/** A server that is started by a connection to `path`. */
export async function startActivated(
  path: string,
  options: readonly string[],
  args: readonly string[],
): Promise<NbdServer> {
  const [server] = await Promise.all([
    startServerAsGiven(args, { through: activator(options), environment: QUIET }),
    knock(path),
  ]);
  return server;
}

/** The same for a server that ends by itself. */
export async function attemptActivated(
  path: string,
  options: readonly string[],
  args: readonly string[],
): Promise<CommandResult> {
  const command: [string, ...string[]] = [...activator(options), ...PROGRAM, ...args];
  const [result] = await Promise.all([attempt(command, { environment: QUIET }), knock(path)]);
  return result;
}
