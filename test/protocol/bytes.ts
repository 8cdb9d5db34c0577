/** Bytes for the tests of the protocol, built and read without any of the code under test. */

/** Hexadecimal digits without the blanks that are there for the reader. */
export function digits(text: string): string {
  return text.replaceAll(/\s/g, '');
}

/** The bytes that hexadecimal text spells. */
export function hex(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(digits(text), 'hex'));
}

export function toHex(bytes: Uint8Array): string {
  return Buffer.from(bytes).toString('hex');
}

export function join(...parts: readonly Uint8Array[]): Uint8Array {
  return Uint8Array.from(Buffer.concat(parts));
}

export function u16(value: number): Uint8Array {
  const bytes = new Uint8Array(2);
  new DataView(bytes.buffer).setUint16(0, value);
  return bytes;
}

export function u32(value: number): Uint8Array {
  const bytes = new Uint8Array(4);
  new DataView(bytes.buffer).setUint32(0, value);
  return bytes;
}

export function u64(value: bigint): Uint8Array {
  const bytes = new Uint8Array(8);
  new DataView(bytes.buffer).setBigUint64(0, value);
  return bytes;
}

export function utf8(text: string): Uint8Array {
  return Uint8Array.from(Buffer.from(text, 'utf8'));
}

/** Bytes 0, 1, ... 250, 0, ...: a shift or a swap shows. */
export function pattern(length: number): Uint8Array {
  return Uint8Array.from({ length }, (_, index) => index % 251);
}

/** Reads a message front to back and throws when it is too short: how a careless client would do it. */
export class Cursor {
  readonly #bytes: Uint8Array;
  #position = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get rest(): number {
    return this.#bytes.length - this.#position;
  }

  take(count: number): Uint8Array {
    if (count > this.rest) throw new Error(`Wanted ${count} bytes, got ${this.rest}`);
    this.#position += count;
    return this.#bytes.slice(this.#position - count, this.#position);
  }

  u16(): number {
    return Number(this.#integer(2));
  }

  u32(): number {
    return Number(this.#integer(4));
  }

  u64(): bigint {
    return this.#integer(8);
  }

  text(count: number): string {
    const text = new TextDecoder('utf-8', { fatal: true, ignoreBOM: true }).decode(this.take(count));
    if (text.includes('\0')) throw new Error('NUL in a string');
    return text;
  }

  #integer(count: number): bigint {
    return BigInt(`0x${toHex(this.take(count))}`);
  }
}

/** What `parse` gives, or undefined when it throws. */
export function attemptParse<Result>(parse: () => Result): Result | undefined {
  try {
    return parse();
  } catch {
    return undefined;
  }
}
