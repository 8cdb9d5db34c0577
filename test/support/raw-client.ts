import { once } from 'node:events';
import { connect, type Socket } from 'node:net';
import { connect as connectTls } from 'node:tls';
import type { NbdServer } from './server.ts';

const MAGIC = {
  hello: Buffer.from('NBDMAGIC'),
  option: Buffer.from('IHAVEOPT'),
  request: 0x25609513,
  simpleReply: 0x67446698,
} as const;

export const OPTION = {
  abort: 2,
  list: 3,
  starttls: 5,
  go: 7,
  structuredReply: 8,
  setMetaContext: 10,
} as const;

export const COMMAND = {
  read: 0,
  write: 1,
  disconnect: 2,
  flush: 3,
  trim: 4,
  cache: 5,
  writeZeroes: 6,
  blockStatus: 7,
} as const;

const REPLY_ACK = 1;

/** Client flags: fixed newstyle, no zeroes. */
export const CLIENT_FLAGS = Buffer.from([0, 0, 0, 3]);

export interface Request {
  readonly type: number;
  readonly flags?: number;
  readonly cookie?: bigint;
  readonly offset?: number;
  readonly length?: number;
  readonly data?: Buffer;
}

export interface SimpleReply {
  readonly error: number;
  readonly cookie: bigint;
}

function u32(value: number): Buffer {
  const bytes = Buffer.alloc(4);
  bytes.writeUInt32BE(value);
  return bytes;
}

export function encodeOption(option: number, data: Buffer = Buffer.alloc(0)): Buffer {
  return Buffer.concat([MAGIC.option, u32(option), u32(data.length), data]);
}

export function encodeGo(name: string): Buffer {
  const bytes = Buffer.from(name);
  return encodeOption(OPTION.go, Buffer.concat([u32(bytes.length), bytes, Buffer.alloc(2)]));
}

export function encodeSetMetaContext(name: string, query: string): Buffer {
  const [nameBytes, queryBytes] = [Buffer.from(name), Buffer.from(query)];
  return encodeOption(
    OPTION.setMetaContext,
    Buffer.concat([u32(nameBytes.length), nameBytes, u32(1), u32(queryBytes.length), queryBytes]),
  );
}

export function encodeRequest({ type, flags = 0, cookie = 0n, offset = 0, length, data }: Request): Buffer {
  const header = Buffer.alloc(28);
  header.writeUInt32BE(MAGIC.request, 0);
  header.writeUInt16BE(flags, 4);
  header.writeUInt16BE(type, 6);
  header.writeBigUInt64BE(cookie, 8);
  header.writeBigUInt64BE(BigInt(offset), 16);
  header.writeUInt32BE(length ?? data?.length ?? 0, 24);
  return data === undefined ? header : Buffer.concat([header, data]);
}

/** A client without manners: it sends what it is told to, reads when it is told to and leaves when it likes. */
export class RawClient implements AsyncDisposable {
  readonly socket: Socket;
  /** Settles when the connection is gone, however that came about. */
  readonly closed: Promise<void>;
  #isListening = false;
  #wake: () => void = () => {};

  private constructor(socket: Socket) {
    this.socket = socket;
    this.closed = new Promise((resolve) => {
      socket.once('close', () => {
        resolve();
      });
    });
    // A reset by the server shows as the end of the connection.
    socket.on('error', () => undefined);
  }

  static async connect(server: Pick<NbdServer, 'uri'>): Promise<RawClient> {
    const url = new URL(server.uri);
    const path = url.searchParams.get('socket');
    const socket =
      path === null
        ? connect({ host: url.hostname, port: Number(url.port), allowHalfOpen: true })
        : connect({ path, allowHalfOpen: true });
    const client = new RawClient(socket);
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    return client;
  }

  /** Says hello, encrypts, whoever the server is, and opens the export. */
  static async openSecurely(server: Pick<NbdServer, 'uri'>): Promise<RawClient> {
    const plain = await RawClient.connect(server);
    await plain.receive(18);
    await plain.send(Buffer.concat([CLIENT_FLAGS, encodeOption(OPTION.starttls)]));
    const header = await plain.receive(20);
    if (header.readUInt32BE(12) !== REPLY_ACK) throw new Error('STARTTLS was refused');
    for (const event of ['readable', 'end']) plain.socket.removeAllListeners(event);
    const secure = connectTls({ socket: plain.socket, rejectUnauthorized: false });
    secure.allowHalfOpen = true;
    await once(secure, 'secureConnect');
    const client = new RawClient(secure);
    await client.#go('');
    return client;
  }

  /** Waits until the kernel has taken the bytes, or the connection is gone. */
  async send(bytes: Buffer): Promise<void> {
    await new Promise<void>((resolve) => {
      this.socket.write(bytes, () => {
        resolve();
      });
    });
  }

  /** Exactly this many bytes; an error if the server closes the connection first. */
  async receive(count: number): Promise<Buffer> {
    for (;;) {
      // read() gives whatever is left at the end of the stream, even when that is less.
      const bytes = this.socket.read(count) as Buffer | null;
      if (bytes?.length === count || count === 0) return bytes ?? Buffer.alloc(0);
      if (bytes !== null || this.socket.readableEnded || this.socket.destroyed) {
        throw new Error('the server closed the connection');
      }
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
        if (!this.#isListening) {
          // Once: whoever adds the listener anew while a part is buffered is woken at once, for ever.
          this.#isListening = true;
          for (const event of ['readable', 'end', 'close']) this.socket.on(event, () => this.#wake());
        }
      });
    }
  }

  /** Says hello and opens the export with GO: simple replies, no meta contexts. */
  async handshake(name = ''): Promise<void> {
    const hello = await this.receive(18);
    if (!hello.subarray(0, 8).equals(MAGIC.hello)) throw new Error(`not NBD: ${hello.toString('hex')}`);
    await this.send(CLIENT_FLAGS);
    await this.#go(name);
  }

  async #go(name: string): Promise<void> {
    await this.send(encodeGo(name));
    for (;;) {
      const header = await this.receive(20);
      await this.receive(header.readUInt32BE(16));
      const type = header.readUInt32BE(12);
      if (type === REPLY_ACK) return;
      if (type >= 2 ** 31) throw new Error(`GO was refused: 0x${type.toString(16)}`);
    }
  }

  async receiveReply(dataLength = 0): Promise<SimpleReply> {
    const header = await this.receive(16);
    if (header.readUInt32BE(0) !== MAGIC.simpleReply) throw new Error(`no reply: ${header.toString('hex')}`);
    const error = header.readUInt32BE(4);
    if (error === 0) await this.receive(dataLength);
    return { error, cookie: header.readBigUInt64BE(8) };
  }

  /** Ends our half of the connection and goes on reading. */
  halfClose(): void {
    this.socket.end();
  }

  async leave(): Promise<void> {
    this.socket.destroy();
    await this.closed;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.leave();
  }
}
