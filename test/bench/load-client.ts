/** A minimal NBD client for load: it keeps requests in flight, checks every reply, and throws the data away. */
import { createHistogram, type RecordableHistogram } from 'node:perf_hooks';
import { COMMAND, encodeRequest, RawClient } from '../support/raw-client.ts';

const REPLY_MAGIC = 0x67446698;
const REPLY_BYTES = 16;

export interface LoadRequest {
  readonly type: 'read' | 'write' | 'trim';
  readonly offset: number;
  readonly length: number;
}

export interface LoadResult {
  readonly operations: number;
  readonly bytes: number;
  /** From the first request to the last reply. */
  readonly seconds: number;
  /** Nanoseconds from request to reply. */
  readonly latencies: RecordableHistogram;
}

export class LoadClient implements AsyncDisposable {
  readonly #client: RawClient;

  private constructor(client: RawClient) {
    this.#client = client;
  }

  static async connect(uri: string): Promise<LoadClient> {
    const client = await RawClient.connect({ uri });
    await client.handshake();
    return new LoadClient(client);
  }

  /** Keeps `depth` requests in flight for so many seconds; once. `payload` is what is written, from its start. */
  run(next: () => LoadRequest, payload: Buffer, depth: number, seconds: number): Promise<LoadResult> {
    const { socket, closed } = this.#client;
    const latencies = createHistogram();
    const [requests, since]: [LoadRequest[], number[]] = [[], []];
    const begin = performance.now();
    const end = begin + seconds * 1000;
    let [operations, bytes, inFlight] = [0, 0, 0];

    return new Promise((resolve, reject) => {
      const submit = (slot: number): void => {
        const request = next();
        requests[slot] = request;
        since[slot] = performance.now();
        inFlight += 1;
        const { type, offset, length } = request;
        socket.write(encodeRequest({ type: COMMAND[type], cookie: BigInt(slot), offset, length }));
        if (type === 'write') {
          socket.write(payload.subarray(0, length));
        }
      };
      const reader = new ReplyReader(requests, (slot, { length }) => {
        const now = performance.now();
        latencies.record(Math.max(1, Math.round((now - (since[slot] ?? now)) * 1e6)));
        operations += 1;
        bytes += length;
        inFlight -= 1;
        if (now < end) {
          submit(slot);
        } else if (inFlight === 0) {
          resolve({ operations, bytes, seconds: (now - begin) / 1000, latencies });
        }
      });
      // The handshake has read by hand.
      socket.removeAllListeners('readable');
      socket.on('data', (chunk) => {
        try {
          socket.cork();
          reader.take(chunk);
          socket.uncork();
        } catch (error) {
          reject(error);
          socket.destroy();
        }
      });
      void closed.then(() => reject(new Error('The server closed the connection')));
      for (let slot = 0; slot < depth; slot += 1) {
        submit(slot);
      }
    });
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.#client.leave();
  }
}

/** Cuts the stream into simple replies; the cookie of a request is its slot. */
export class ReplyReader {
  readonly #requests: readonly LoadRequest[];
  readonly #completed: (slot: number, request: LoadRequest) => void;
  readonly #header = Buffer.alloc(REPLY_BYTES);
  #headerBytes = 0;
  /** Of the data behind the header. */
  #bytesLeft = 0;

  constructor(requests: readonly LoadRequest[], completed: (slot: number, request: LoadRequest) => void) {
    this.#requests = requests;
    this.#completed = completed;
  }

  /** The next bytes of the stream. Throws when the server reports an error, or answers what was not asked. */
  take(chunk: Buffer): void {
    for (let position = 0; position < chunk.length; ) {
      if (this.#headerBytes < REPLY_BYTES) {
        const count = chunk.copy(this.#header, this.#headerBytes, position);
        this.#headerBytes += count;
        position += count;
        if (this.#headerBytes < REPLY_BYTES) {
          return;
        }
        const { type, length } = this.#request();
        this.#bytesLeft = type === 'read' ? length : 0;
      }
      const skipped = Math.min(this.#bytesLeft, chunk.length - position);
      this.#bytesLeft -= skipped;
      position += skipped;
      if (this.#bytesLeft === 0) {
        this.#headerBytes = 0;
        this.#completed(this.#slot(), this.#request());
      }
    }
  }

  #slot(): number {
    return Number(this.#header.readBigUInt64BE(8));
  }

  #request(): LoadRequest {
    const request = this.#requests[this.#slot()];
    const error = this.#header.readUInt32BE(4);
    if (this.#header.readUInt32BE(0) !== REPLY_MAGIC || request === undefined || error !== 0) {
      throw new Error(`The server answered with an error, or not as asked: ${this.#header.toString('hex')}`);
    }
    return request;
  }
}
