/** A StreamSocket under test, and a client of Node's on the other end. */
import net from 'node:net';
import { join } from 'node:path';
import { native, type StreamSocket } from '../../src/native/binding.ts';
import { eventually } from '../support/polling.ts';
import { defer, temporaryFolder } from './support.ts';

export interface Pair {
  readonly client: net.Socket;
  readonly stream: StreamSocket;
  readonly fd: number;
  readonly buffer: Buffer;
  /** What `received` was told, with the bytes as text. */
  readonly received: (number | string)[];
  /** The same as it was told. */
  readonly results: number[];
  readonly writable: number[];
  /** Bytes that `received` was told of. */
  byteCount(): number;
}

/** A client of Node's on one end, a StreamSocket on the other; `afterEach` is called whenever it has received something. */
export async function pair(
  bufferBytes = 1024,
  afterEach: (stream: StreamSocket) => void = () => {},
): Promise<Pair> {
  const path = join(temporaryFolder(), 'socket');
  const accepted = new Promise<number>((resolve) => {
    const listener = new native.Listener(native.listen_unix(path, 0o600, 1), (descriptor) => {
      listener.close();
      resolve(descriptor);
    });
  });
  const client = net.connect({ path, allowHalfOpen: true }).on('error', () => {});
  defer(() => client.destroy());
  const fd = await accepted;
  const buffer = Buffer.alloc(bufferBytes + 8, '.');
  const received: (number | string)[] = [];
  const results: number[] = [];
  const writable: number[] = [];
  let byteCount = 0;
  const stream = new native.StreamSocket(
    fd,
    buffer,
    8,
    bufferBytes,
    (result) => {
      results.push(result);
      byteCount += Math.max(result, 0);
      received.push(result > 0 ? buffer.toString('latin1', 8, 8 + result) : result);
      if (result <= 0) stream.stop();
      afterEach(stream);
    },
    () => writable.push(received.length),
  );
  defer(() => stream.close());
  return { client, stream, fd, buffer, received, results, writable, byteCount: () => byteCount };
}

export function happens(what: string, condition: () => boolean): Promise<true> {
  return eventually(what, () => (condition() ? true : undefined));
}
