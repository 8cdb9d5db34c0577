/**
 * Records of TLS 1.3 with TLS_AES_128_GCM_SHA256 as a client makes them, for those that no client does: what is sent so comes
 * in the place of what Node's client would send, which sends nothing any more.
 */
import { type CipherGCM, createCipheriv, createHmac } from 'node:crypto';
import { Socket } from 'node:net';
import type { Handshake } from './tls-pair.ts';

export const HANDSHAKE = 22;
export const APPLICATION_DATA = 23;

/** Of the message KeyUpdate, whose body is one byte: whether the server is to do the same. */
export const KEY_UPDATE_HEADER = Buffer.from([24, 0, 0, 1]);
export const NOT_REQUESTED = Buffer.from([0]);
export const REQUESTED = Buffer.from([1]);

/** HKDF-Expand-Label of RFC 8446 without a context, for one block or less. */
function expand(secret: Uint8Array, label: string, length: number): Uint8Array {
  const name = Buffer.from(`tls13 ${label}`);
  const info = Buffer.concat([Buffer.from([0, length, name.length]), name, Buffer.from([0, 1])]);
  return createHmac('sha256', secret).update(info).digest().subarray(0, length);
}

export class Forger {
  readonly #socket: Socket;
  #secret: Uint8Array;
  #key: Uint8Array = Buffer.alloc(0);
  #iv: Uint8Array = Buffer.alloc(0);
  #sequence = 0;

  /** Of a connection on which the client has sent nothing since the handshake. */
  constructor({ client, clientSecret }: Handshake) {
    this.#socket = client;
    this.#secret = clientSecret();
    this.#derive();
  }

  record(type: number, ...parts: readonly Buffer[]): Buffer {
    const nonce = Buffer.from(this.#iv);
    nonce.writeUInt32BE((nonce.readUInt32BE(8) ^ this.#sequence) >>> 0, 8);
    this.#sequence += 1;
    const text = Buffer.concat([...parts, Buffer.from([type])]);
    const header = Buffer.from([APPLICATION_DATA, 3, 3, 0, 0]);
    header.writeUInt16BE(text.length + 16, 3);
    const cipher: CipherGCM = createCipheriv('aes-128-gcm', this.#key, nonce).setAAD(header);
    return Buffer.concat([header, cipher.update(text), cipher.final(), cipher.getAuthTag()]);
  }

  /** Behind a KeyUpdate that is whole. */
  changeKeys(): void {
    this.#secret = expand(this.#secret, 'traffic upd', 32);
    this.#sequence = 0;
    this.#derive();
  }

  /** To the kernel before it returns, as far as that has room. */
  send(...records: readonly Buffer[]): void {
    // Node's TLS has replaced the method of this one.
    Socket.prototype.write.call(this.#socket, Buffer.concat(records));
  }

  #derive(): void {
    this.#key = expand(this.#secret, 'key', 16);
    this.#iv = expand(this.#secret, 'iv', 12);
  }
}
