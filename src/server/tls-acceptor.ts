/**
 * The server's side of TLS handshakes on sockets that exist already, with one set of credentials for all of them.
 */
import type { Socket } from 'node:net';
import { createServer, type Server, type TLSSocket, type TlsOptions } from 'node:tls';

/** How one handshake ends. One of them is called, once. */
export interface Handshake {
  secured(secure: TLSSocket): void;
  failed(error: NodeJS.ErrnoException, secure: TLSSocket): void;
}

export class TlsAcceptor {
  /**
   * It never listens: the documented way to have Node check a client's certificate on a given socket (tls.Server,
   * event 'connection'). Shared, because to make one takes 1.3 ms: it parses the certificates and the key.
   */
  readonly #server: Server;
  /** By the sockets that were handed over. */
  readonly #handshakes = new WeakMap<Socket, Handshake>();

  constructor(options: TlsOptions) {
    this.#server = createServer(options);
    this.#server.on('secureConnection', (secure) => {
      this.#take(secure)?.secured(secure);
    });
    this.#server.on('tlsClientError', (error: NodeJS.ErrnoException, secure) => {
      this.#take(secure)?.failed(error, secure);
    });
  }

  accept(socket: Socket, handshake: Handshake): void {
    this.#handshakes.set(socket, handshake);
    this.#server.emit('connection', socket);
  }

  #take(secure: TLSSocket & { readonly _parent?: Socket }): Handshake | undefined {
    // Nothing documented tells which socket a TLSSocket was made on; Node 10 to 24 keep it here.
    const socket = secure._parent;
    if (socket === undefined) {
      throw new Error('Bug: this Node.js does not tell on which socket a TLSSocket was made');
    }
    const handshake = this.#handshakes.get(socket);
    this.#handshakes.delete(socket);
    return handshake;
  }
}
