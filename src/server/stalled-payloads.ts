/**
 * WRITEs whose payload has room in the budget and does not come. Nothing is wrong with a slow client until others
 * wait for the budget; from then on it must send PAYLOAD_PROGRESS_BYTES_MIN in PAYLOAD_STALL_SECONDS_MAX seconds.
 */
import { PAYLOAD_PROGRESS_BYTES_MIN, PAYLOAD_STALL_SECONDS_MAX } from '../limits.ts';

/** A connection while the payload of a WRITE comes in. */
export interface PayloadReceiver {
  /** Bytes received so far, of whatever. */
  readonly receivedBytes: number;
  /** The payload stalls and others wait: to be cut off. */
  stalled(): void;
}

export class StalledPayloads {
  /** Each with its bytes at the last look; undefined when it has come after that. */
  readonly #receivers = new Map<PayloadReceiver, number | undefined>();
  readonly #isWaitedFor: () => boolean;
  #timer: NodeJS.Timeout | undefined;

  /** `isWaitedFor`: whether anybody waits for the budget. */
  constructor(isWaitedFor: () => boolean) {
    this.#isWaitedFor = isWaitedFor;
  }

  begin(receiver: PayloadReceiver): void {
    this.#receivers.set(receiver, undefined);
  }

  end(receiver: PayloadReceiver): void {
    this.#receivers.delete(receiver);
  }

  /** To be called when somebody begins to wait. */
  watch(): void {
    if (this.#timer === undefined) {
      this.#look();
      this.#schedule();
    }
  }

  #schedule(): void {
    this.#timer = setTimeout(() => {
      // Behind one round of reading: after a pause of the whole process the bytes may be there, unread.
      setImmediate(() => {
        this.#timer = undefined;
        if (this.#isWaitedFor()) {
          this.#cutStalled();
          this.#look();
          this.#schedule();
        }
      });
    }, PAYLOAD_STALL_SECONDS_MAX * 1000).unref();
  }

  #look(): void {
    for (const receiver of this.#receivers.keys()) {
      this.#receivers.set(receiver, receiver.receivedBytes);
    }
  }

  #cutStalled(): void {
    for (const [receiver, bytesBefore] of [...this.#receivers]) {
      if (bytesBefore !== undefined && receiver.receivedBytes - bytesBefore < PAYLOAD_PROGRESS_BYTES_MIN) {
        receiver.stalled();
      }
    }
  }
}
