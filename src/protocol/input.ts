/**
 * The bytes that a session has received and not yet consumed: a borrowed array, and the beginning of a
 * header that was cut off by the end of the array before.
 */

const NO_BYTES = new Uint8Array(0);

export class Input {
  /** After `gather`: the array that holds the gathered bytes, from `gatheredAt` on. */
  gathered: Uint8Array = NO_BYTES;
  gatheredAt = 0;

  #bytes: Uint8Array = NO_BYTES;
  #position = 0;
  #end = 0;
  readonly #carry: Uint8Array;
  #carried = 0;

  /** `headerBytesMax`: the most that `gather` will be asked for. */
  constructor(headerBytesMax: number) {
    this.#carry = new Uint8Array(headerBytesMax);
  }

  /** The borrowed array itself. */
  get bytes(): Uint8Array {
    return this.#bytes;
  }

  get position(): number {
    return this.#position;
  }

  /** Bytes that can be consumed without the next `receive`. */
  get available(): number {
    return this.#end - this.#position;
  }

  /** Borrows `bytes` from 0 to `length`; everything received before must have been consumed. */
  receive(bytes: Uint8Array, length: number): void {
    if (this.available > 0) {
      throw new Error(`Bug: ${this.available} received bytes were not consumed`);
    }
    this.#bytes = bytes;
    this.#position = 0;
    this.#end = length;
  }

  /** After a `gather` that was false: the beginning of what it was asked for, from `carry[0]` on, so many bytes. */
  get carried(): number {
    return this.#carried;
  }

  get carry(): Uint8Array {
    return this.#carry;
  }

  /** Consumes `count` bytes and points `gathered` at them, contiguous; false while some are still to come. */
  gather(count: number): boolean {
    if (this.#carried === 0 && this.available >= count) {
      this.gathered = this.#bytes;
      this.gatheredAt = this.#position;
      this.#position += count;
      return true;
    }
    this.#carried += this.copyInto(this.#carry, this.#carried, count - this.#carried);
    if (this.#carried < count) {
      return false;
    }
    this.gathered = this.#carry;
    this.gatheredAt = 0;
    this.#carried = 0;
    return true;
  }

  /** Moves up to `count` bytes into `target` at `start`: the number moved. */
  copyInto(target: Uint8Array, start: number, count: number): number {
    const taken = Math.min(count, this.available);
    if (taken === 0) {
      // `start` may be past the end of an empty target.
      return 0;
    }
    target.set(this.#bytes.subarray(this.#position, this.#position + taken), start);
    this.#position += taken;
    return taken;
  }

  /** Drops up to `count` bytes: the number dropped. */
  skip(count: number): number {
    const taken = Math.min(count, this.available);
    this.#position += taken;
    return taken;
  }
}
