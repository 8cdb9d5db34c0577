/**
 * The bytes of one client, in plaintext or, once `startTls` is called, in TLS: what is best written at a time, and how it
 * ends. The connection above sees the same reads, writes and back-pressure either way. It knows nothing of NBD.
 */
import type { Logger } from '../log.ts';
import { native, type TlsContext } from '../native/binding.ts';
import { ROUTE_TCP_ON_THIS_HOST, ROUTE_UNIX } from '../native/constants.ts';
import type { IncomingWrite, LentMemory } from '../plugins/plugin.ts';
import { ClientSocket } from './client-socket.ts';
import type { FilePart } from './file-part.ts';

/** How long a client may take to close its side after the server has closed its own. */
export const LINGER_MS = 1000;

/**
 * What a Unix socket has room for at a time (net.core.wmem_max), and TLS encrypts in one go: 1 MiB measured the same there
 * (1 MiB READs over one and four connections; 2 cores, 2026-11).
 */
const WRITE_BYTES_MAX = 128 * 1024;

/**
 * TCP takes megabytes, and a client that runs out of bytes between two parts goes to sleep, which is dear to end: 1 MiB
 * READs from memory at depth 8 inside one host, 3.9 GiB/s against 2.6 with parts of 128 KiB (2 cores, 2026-11).
 */
const TCP_WRITE_BYTES_MAX = 1024 * 1024;

/**
 * Shortest part of a file that is sent from the page cache: below it asking what is resident costs more than the copy. 64 KiB
 * READs at depth 16, sendfile against copies, which leave together: 0.94 over one connection, 0.90 over four.
 */
const FILE_BYTES_MIN = 64 * 1024 + 1;

/**
 * sendfile(2) fills a TCP socket by 64 KiB, each of which wakes the client. Inside one host, depth 8, 2 cores, GiB/s with
 * sendfile and with a copy of ours: 64 KiB 2.4 and 3.2 (copies leave together), 256 KiB 4.3 and 3.5, 1 MiB 2.9 and 3.9. To
 * another host the copy is what counts.
 */
const TCP_ON_THIS_HOST_FILE_BYTES_MIN = 128 * 1024 + 1;
const TCP_ON_THIS_HOST_FILE_BYTES_MAX = 256 * 1024;

/**
 * Shortest READ whose bytes are sent from the memory that the export lies in: shorter ones are copied, and leave together. 64 KiB
 * READs at depth 16 over four connections: 0.90 of the copies over a Unix socket, 0.78 over TCP (2 cores, 2026-11).
 */
const MEMORY_BYTES_MIN = 64 * 1024 + 1;

/** How often a connection that ends is asked whether the client's kernel has everything. */
const DELIVERY_LOOK_MS = 10;

export interface TransportEvents {
  /**
   * `expected` bytes are where `expect` has told; behind them came those of `bytes` from 0 to `length`, which stay
   * as they are until more are asked for. False stops reading.
   */
  received(bytes: Uint8Array, length: number, expected: number): boolean;
  /** The client will send no more. */
  ended(): void;
  /** The socket is gone, for whatever reason. Called once. */
  closed(): void;
}

export class Transport {
  /** The client's address and port; undefined for one on a Unix socket, which has no address. */
  readonly client: string | undefined;
  /** Open for as long as `isDestroyed` is false. */
  readonly #fd: number;
  readonly #socket: ClientSocket;
  readonly #route: number;
  readonly #log: Logger;
  /** From `startTls` on. */
  #isSecure = false;
  /** From `startTls` until the TLS handshake is over: whatever arrives is TLS's. */
  #isUpgrading = false;

  /** Takes over the connected descriptor `fd`. */
  constructor(fd: number, events: TransportEvents, log: Logger) {
    this.#fd = fd;
    this.#log = log;
    const client = native.peer_address(fd);
    this.client = typeof client === 'string' && client !== '' ? client : undefined;
    this.#socket = new ClientSocket(fd, {
      received: (bytes, length, expected) => events.received(bytes, length, expected),
      ended: () => events.ended(),
      failed: (errno) => log.debug({ errno }, 'The socket failed'),
      closed: () => events.closed(),
    });
    this.#route = this.#socket.route;
  }

  /** Closed, or about to be: nothing can be written any more. */
  get isDestroyed(): boolean {
    return this.#socket.isDestroyed;
  }

  /** The client has taken less than was written: write no more before `onceDrained`. */
  get needsDrain(): boolean {
    return this.#socket.needsDrain;
  }

  onceDrained(drained: () => void): void {
    this.#socket.onceDrained(drained);
  }

  /** Calls `taken` when the kernel has the bytes, perhaps before it returns, or when the socket is gone. */
  write(bytes: Uint8Array, taken?: () => void): void {
    this.#socket.write(bytes, taken);
  }

  get writeBytesMax(): number {
    return !this.#isSecure && this.#route !== ROUTE_UNIX ? TCP_WRITE_BYTES_MAX : WRITE_BYTES_MAX;
  }

  sendsFile(length: number): boolean {
    if (this.#isSecure) {
      return false;
    }
    return this.#route === ROUTE_TCP_ON_THIS_HOST
      ? length >= TCP_ON_THIS_HOST_FILE_BYTES_MIN && length <= TCP_ON_THIS_HOST_FILE_BYTES_MAX
      : length >= FILE_BYTES_MIN;
  }

  /** Whether so much memory of an export is best sent from there. */
  sendsMemory(length: number): boolean {
    return !this.#isSecure && length >= MEMORY_BYTES_MIN;
  }

  /** See ClientSocket.writeMemory. Not with TLS. */
  writeMemory(header: Uint8Array, memory: LentMemory, taken: () => void): void {
    this.#socket.writeMemory(header, memory, taken);
  }

  /** See ClientSocket.writeFile. Not with TLS. */
  writeFile(header: Uint8Array, part: FilePart): void {
    this.#socket.writeFile(header, part);
  }

  /** Reads on after `received` has answered false. */
  resume(): void {
    this.#socket.resume();
  }

  /** Receives in large pieces from now on. */
  enlargeBuffer(): void {
    this.#socket.enlargeBuffer();
  }

  /** The next `length` bytes go to `buffer` from `start` on, until reading stops. */
  expect(buffer: Uint8Array, start: number, length: number): void {
    this.#socket.expect(buffer, start, length);
  }

  /** What a client sends can go where it belongs without a copy of ours: not with TLS. */
  get canReceiveInPlace(): boolean {
    return !this.#isSecure;
  }

  /** See ClientSocket, all of these. Not with TLS. */
  expectInFile(write: IncomingWrite, offset: number, length: number): boolean {
    return this.#socket.expectInFile(write, offset, length);
  }

  expectInMemory(memory: LentMemory, skip: number, isRest: boolean): void {
    this.#socket.expectInMemory(memory, skip, isRest);
  }

  leaveFile(buffer: Uint8Array, start: number, length: number): number {
    return this.#socket.leaveFile(buffer, start, length);
  }

  expectNothing(): void {
    this.#socket.expectNothing();
  }

  get fileOutcome(): number {
    return this.#socket.fileOutcome;
  }

  limit(length: number): void {
    this.#socket.limit(length);
  }

  /** Sends what was written and says goodbye (in TLS: close_notify). Reading goes on. */
  end(): void {
    if (this.#isUpgrading) {
      return this.cut();
    }
    this.#socket.end();
  }

  /**
   * As `end`, and closes the socket at once when the client's kernel has everything; else when it has, and the
   * client has said goodbye or has had LINGER_MS for it. Until then reading must go on: to close a socket with
   * unread input is a reset, which drops whatever has not been sent.
   */
  endAndClose(): void {
    if (this.#isUpgrading) {
      return this.cut();
    }
    // Asked before the goodbye, which a client that has vanished never acknowledges.
    const hasDelivered = !this.needsDrain && this.#isAcknowledged;
    this.end();
    if (hasDelivered) {
      this.cut();
    } else {
      this.#closeWhenDelivered();
    }
  }

  /** Closes the socket at once. */
  cut(): void {
    this.#socket.destroy();
  }

  /** The client's kernel has all that ours was given; an error says that it gets no more. */
  get #isAcknowledged(): boolean {
    return native.unacknowledged(this.#fd) <= 0;
  }

  /** Looks again and again: no event tells that a socket's send queue is empty. */
  #closeWhenDelivered(): void {
    setTimeout(() => {
      if (this.isDestroyed) {
        return;
      }
      if (this.needsDrain || !this.#isAcknowledged) {
        return this.#closeWhenDelivered();
      }
      // Its program may be behind its kernel: one that sends meanwhile, and is told of a reset, reads no further.
      setTimeout(() => {
        this.cut();
      }, LINGER_MS).unref();
    }, DELIVERY_LOOK_MS).unref();
  }

  /**
   * Starts TLS as the server; reading must have stopped. `secured` is called when the handshake has succeeded;
   * when it fails, that is one line in the log and the end of the connection.
   */
  startTls(context: TlsContext, secured: () => void): void {
    this.#isSecure = true;
    this.#isUpgrading = true;
    // The ACK of STARTTLS is plaintext; it leaves before the first byte of TLS.
    this.#socket.startTls(context, (failure, protocol, cipher) => {
      if (failure !== '') {
        this.#log.warn({}, `The TLS handshake failed: ${failure}`);
        return this.cut();
      }
      this.#isUpgrading = false;
      this.#log.info({ protocol, cipher }, 'TLS is in use');
      secured();
    });
  }
}
