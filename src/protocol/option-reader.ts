/**
 * The framing of options (proto.md, "Fixed newstyle negotiation"): collects one option after another, skips
 * what is too long to be read, and never allocates by what a client claims. It knows no option by name.
 */
import { OPTION_BYTES_MAX, OPTION_COUNT_MAX, OPTION_SKIP_BYTES_MAX } from '../limits.ts';
import type { Input } from './input.ts';
import { decodeOptionHeader, OPTION_HEADER_BYTES } from './options/frame.ts';
import { type Violation, violation } from './violation.ts';

/** One option, whole. Its data was skipped when `isTooLong`. */
export interface Option {
  readonly number: number;
  readonly data: Uint8Array;
  readonly isTooLong: boolean;
}

const NO_BYTES = new Uint8Array(0);

export class OptionReader {
  readonly #input: Input;
  #isInHeader = true;
  #count = 0;
  #number = 0;
  #length = 0;
  #data: Uint8Array = NO_BYTES;
  #filled = 0;

  constructor(input: Input) {
    this.#input = input;
  }

  /** The next option, once all of it is there. */
  read(): Option | Violation | 'need-input' {
    if (this.#isInHeader) {
      if (!this.#input.gather(OPTION_HEADER_BYTES)) {
        return 'need-input';
      }
      const wrong = this.#begin();
      if (wrong !== undefined) {
        return wrong;
      }
      this.#isInHeader = false;
    }
    const isTooLong = this.#length > OPTION_BYTES_MAX;
    if (isTooLong) {
      this.#filled += this.#input.skip(this.#length - this.#filled);
    } else {
      this.#fill();
    }
    if (this.#filled < this.#length) {
      return 'need-input';
    }
    const data = this.#data;
    this.#data = NO_BYTES;
    this.#isInHeader = true;
    return { number: this.#number, data, isTooLong };
  }

  #begin(): Violation | undefined {
    const header = decodeOptionHeader(this.#input.gathered, this.#input.gatheredAt);
    if (header === undefined) {
      return violation('ERR_NBD_BAD_MAGIC', 'Wrong option magic');
    }
    this.#count += 1;
    if (this.#count > OPTION_COUNT_MAX) {
      return violation('ERR_NBD_OPTION_FLOOD', `More than ${OPTION_COUNT_MAX} options`);
    }
    if (header.length > OPTION_SKIP_BYTES_MAX) {
      return violation('ERR_NBD_OPTION_FLOOD', `An option of ${header.length} bytes`);
    }
    this.#number = header.option;
    this.#length = header.length;
    this.#filled = 0;
    return undefined;
  }

  /** Collects the option's data; memory follows what has arrived, doubling, not what the client claims. */
  #fill(): void {
    const needed = Math.min(this.#length, this.#filled + this.#input.available);
    if (needed > this.#data.length) {
      const capacity = Math.min(this.#length, Math.max(needed, 2 * this.#data.length));
      const grown = new Uint8Array(capacity);
      grown.set(this.#data.subarray(0, this.#filled));
      this.#data = grown;
    }
    this.#filled += this.#input.copyInto(this.#data, this.#filled, needed - this.#filled);
  }
}
