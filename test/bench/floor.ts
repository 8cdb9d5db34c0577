/** The floor: a server that does nothing but answer (floor.cc), compiled when it is needed. */
import { join } from 'node:path';
import { attempt } from '../support/command.ts';
import { addressFor, type Peer, uriOf } from './peers.ts';

/** Without polling the client would measure how fast the kernel wakes a thread up. */
const POLL_MICROSECONDS = 50;
/** More replies in one piece only make the client wait. */
const GATHER = 8;

export const FLOOR = 'floor';

/** Builds the floor in `folder`. Returns undefined, and says why, where it cannot be had. */
export async function compileFloor(
  folder: string,
  warn: (message: string) => void,
): Promise<Peer | undefined> {
  const program = join(folder, 'floor-server');
  const source = join(import.meta.dirname, 'floor.cc');
  const compiler = process.env['CXX'] ?? 'g++';
  const built = await attempt([
    compiler,
    '-std=c++17',
    '-O2',
    '-Wall',
    '-pthread',
    '-o',
    program,
    source,
  ]).catch((error: unknown) => ({ code: 1, stderr: String(error) }));
  if (built.code !== 0) {
    warn(`No floor: ${compiler} failed: ${built.stderr.trim().split('\n')[0]}`);
    return undefined;
  }
  return {
    name: FLOOR,
    keepsNothing: true,
    launch: async (setup, socketFolder) => {
      if (setup.transport === 'tls') {
        return undefined;
      }
      const address = await addressFor(setup, socketFolder);
      return {
        command: [
          program,
          ...('socket' in address ? ['unix', address.socket] : ['tcp', `${address.port}`]),
          ...[`${setup.size}`, `${POLL_MICROSECONDS}`, `${GATHER}`],
        ],
        uri: uriOf(setup, address),
      };
    },
  };
}
