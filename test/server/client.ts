/** A connection under test and a client on the other end of a real Unix socket. */
import { connect, type Socket } from 'node:net';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { type Listener, native } from '../../src/native/binding.ts';
import { Connection, type ConnectionContext } from '../../src/server/connection.ts';
import { Counters } from '../../src/server/counters.ts';
import { ExportRegistry } from '../../src/server/export-registry.ts';
import { ProcessBudget } from '../../src/server/inflight-budget.ts';
import type { TlsSetup } from '../../src/server/tls.ts';
import { Cursor, join } from '../protocol/bytes.ts';
import { decodeOptionReplies, go, MODERN, type OptionReply } from '../protocol/naive-client.ts';
import { type TemporaryDirectory, temporaryDirectory } from '../support/temporary-directory.ts';
import { CountingPool } from './counting-pool.ts';
import { FakeLog } from './fake-log.ts';
import type { FakePlugin } from './fake-plugin.ts';

export interface SimpleReply {
  readonly errno: number;
  readonly cookie: bigint;
}

/** Bytes out, bytes in, as they come. */
export class Client implements AsyncDisposable {
  readonly socket: Socket;
  /** Resolves when the server has closed its half, or has cut the connection. */
  readonly ended: Promise<void>;
  #received: Uint8Array = new Uint8Array(0);
  #hasEnded = false;
  #wake: () => void = () => {};

  constructor(socket: Socket) {
    this.socket = socket;
    this.ended = new Promise((resolve) => {
      const end = (): void => {
        this.#hasEnded = true;
        this.#wake();
        resolve();
      };
      socket.on('end', end).on('close', end);
    });
    // A reset is one of the ways to end.
    socket.on('error', () => {});
    socket.on('data', (bytes: Buffer) => {
      this.#received = join(this.#received, bytes);
      this.#wake();
    });
  }

  static connect(path: string): Promise<Client> {
    return new Promise((resolve, reject) => {
      const socket = connect({ path, allowHalfOpen: true });
      socket.once('error', reject);
      socket.once('connect', () => {
        socket.off('error', reject);
        resolve(new Client(socket));
      });
    });
  }

  send(...parts: readonly Uint8Array[]): void {
    this.socket.write(join(...parts));
  }

  /** The next `count` bytes; rejects when the connection ends before. */
  async take(count: number): Promise<Uint8Array> {
    while (this.#received.length < count) {
      if (this.#hasEnded)
        throw new Error(`The connection ended after ${this.#received.length} of ${count} bytes`);
      await new Promise<void>((resolve) => {
        this.#wake = resolve;
      });
    }
    const taken = this.#received.slice(0, count);
    this.#received = this.#received.subarray(count);
    return taken;
  }

  async takeSimpleReply(): Promise<SimpleReply> {
    const cursor = new Cursor(await this.take(16));
    if (cursor.u32() !== 0x67446698) throw new Error('No simple reply');
    return { errno: cursor.u32(), cookie: cursor.u64() };
  }

  async takeOptionReply(): Promise<OptionReply> {
    const header = await this.take(20);
    const data = await this.take(new DataView(header.buffer).getUint32(16));
    const [reply] = decodeOptionReplies(join(header, data));
    if (reply === undefined) throw new Error('No option reply');
    return reply;
  }

  /** The whole handshake, with simple replies. */
  async open(exportName = ''): Promise<void> {
    await this.take(18);
    this.send(MODERN, go(exportName));
    await this.takeOptionReply();
    await this.takeOptionReply();
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.socket.destroy();
  }
}

/** What a server's connections share, and a socket to connect to. */
export class ConnectionRig implements AsyncDisposable {
  readonly pool = new CountingPool();
  readonly budget = new ProcessBudget();
  readonly log = new FakeLog();
  readonly counters = new Counters(false);
  readonly plugin: FakePlugin;
  readonly #directory: TemporaryDirectory;
  readonly #listener: Listener;
  readonly #context: ConnectionContext;
  readonly #connections: Connection[] = [];
  #accepted: (connection: Connection) => void = () => {};

  private constructor(
    directory: TemporaryDirectory,
    plugin: FakePlugin,
    handshakeSeconds: number,
    tls: TlsSetup | undefined,
  ) {
    this.plugin = plugin;
    this.#directory = directory;
    const registry = new ExportRegistry([{ name: '', description: '', plugin }]);
    this.#context = {
      registry,
      pool: this.pool,
      budget: this.budget,
      log: this.log,
      counters: this.counters,
      handshakeSeconds,
      tls,
    };
    const fd = native.listen_unix(this.#path, 0o600, 128);
    this.#listener = new native.Listener(fd, (descriptor) => {
      const connection = new Connection(descriptor, this.#context, this.log);
      this.#connections.push(connection);
      this.#accepted(connection);
    });
  }

  static async create(plugin: FakePlugin, handshakeSeconds = 60, tls?: TlsSetup): Promise<ConnectionRig> {
    return new ConnectionRig(await temporaryDirectory(), plugin, handshakeSeconds, tls);
  }

  get #path(): string {
    return this.#directory.file('socket');
  }

  /** A new connection and its client; one at a time. */
  async connect(): Promise<{ connection: Connection; client: Client }> {
    const accepted = new Promise<Connection>((resolve) => {
      this.#accepted = resolve;
    });
    const [client, connection] = await Promise.all([Client.connect(this.#path), accepted]);
    return { client, connection };
  }

  /** As `connect`, with the export open. */
  async open(): Promise<{ connection: Connection; client: Client }> {
    const pair = await this.connect();
    await pair.client.open();
    return pair;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    this.#listener.close();
    for (const connection of this.#connections) connection.cut();
    let isClosed = false;
    const closed = Promise.all(this.#connections.map(({ closed }) => closed)).then(() => {
      isClosed = true;
    });
    while (!isClosed) {
      for (const { pending } of this.plugin.handles) for (const call of [...pending]) call.resolve();
      await nextTurn();
    }
    await closed;
    await this.#directory[Symbol.asyncDispose]();
  }
}
