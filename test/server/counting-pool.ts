/** A buffer pool that knows what is out, and that refuses to take a buffer back twice. */
import { BufferPool } from '../../src/server/buffer-pool.ts';

export class CountingPool extends BufferPool {
  readonly #out = new Set<Uint8Array>();

  get outCount(): number {
    return this.#out.size;
  }

  get outBytes(): number {
    return [...this.#out].reduce((sum, { length }) => sum + length, 0);
  }

  override acquire(length: number): Uint8Array {
    const buffer = super.acquire(length);
    if (this.#out.has(buffer)) throw new Error('The pool gave a buffer out twice');
    this.#out.add(buffer);
    return buffer;
  }

  override release(buffer: Uint8Array): void {
    if (!this.#out.delete(buffer)) throw new Error('A buffer that is not out was given back');
    super.release(buffer);
  }
}
