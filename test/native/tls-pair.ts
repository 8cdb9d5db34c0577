/** A StreamSocket with TLS under test, and a client of Node's on the other end. */
import { once } from 'node:events';
import { type ConnectionOptions, connect, type TLSSocket } from 'node:tls';
import type { StreamSocket, TlsContext } from '../../src/native/binding.ts';
import { type Pair, pair } from './stream-pair.ts';
import { defer } from './support.ts';

export interface Outcome {
  /** '' when the handshake has succeeded. */
  readonly failure: string;
  readonly protocol: string;
  readonly cipher: string;
}

/** The server's end of a handshake, and the client's, which may be an error. */
export interface Handshake extends Pair, Outcome {
  readonly tls: TLSSocket;
  readonly clientError: NodeJS.ErrnoException | undefined;
  /** What a client of TLS 1.3 derives its keys from. */
  clientSecret(): Buffer;
}

/** One handshake on a new pair. The client trusts whomever it meets, unless told. */
export async function handshake(
  context: TlsContext,
  options: ConnectionOptions = {},
  bufferBytes?: number,
  afterEach?: (stream: StreamSocket) => void,
): Promise<Handshake> {
  const ends = await pair(bufferBytes, afterEach);
  const outcome = new Promise<Outcome>((resolve) => {
    const result = ends.stream.start_tls(context, (failure, protocol, cipher) => {
      // As whoever is told of it does: in the middle of the callback.
      if (failure !== '') ends.stream.close();
      resolve({ failure, protocol, cipher });
    });
    if (result !== 0) throw new Error(`start_tls answered ${result}`);
  });
  const tls = connect({ socket: ends.client, rejectUnauthorized: false, ...options });
  defer(() => tls.destroy());
  let secret = Buffer.alloc(0);
  tls.on('keylog', (line) => {
    const [label, , value] = String(line).trim().split(' ');
    if (label === 'CLIENT_TRAFFIC_SECRET_0') secret = Buffer.from(value ?? '', 'hex');
  });
  let clientError: NodeJS.ErrnoException | undefined;
  // Node leaves a TLS socket open after an alert behind its own part of the handshake (seen in 20.20).
  const ended = new Promise<void>((resolve) => {
    tls.on('error', (error) => {
      clientError = error;
      resolve();
    });
    tls.on('close', () => resolve());
  });
  const secured = once(tls, 'secureConnect').catch(() => {});
  const [server] = await Promise.all([outcome, Promise.race([secured, ended])]);
  if (server.failure !== '') {
    tls.resume();
    await ended;
  }
  return { ...ends, ...server, tls, clientError, clientSecret: () => secret };
}
