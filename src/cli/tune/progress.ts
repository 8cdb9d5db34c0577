/** A progress bar on standard error, for people: nothing appears where it is no terminal. */
import { Presets, SingleBar } from 'cli-progress';
import { mebibytes } from './units.ts';

/** Times a second; more would be work for the eyes and for the event loop that is measured. */
const DRAW_HZ = 5;

export class Progress {
  readonly #bar = new SingleBar(
    {
      stream: process.stderr,
      format: '{bar} {percentage}%  {done}/{all} MiB  ETA {eta_formatted}  {what}',
      hideCursor: true,
      clearOnComplete: true,
      fps: DRAW_HZ,
      etaBuffer: 50,
      barsize: 24,
      // Signals are the command's.
      gracefulExit: false,
    },
    Presets.shades_classic,
  );
  readonly #timer: NodeJS.Timeout;
  #bytes = 0;
  #what = 'preparing';

  /** `total` bytes will be written. */
  constructor(total: number) {
    const all = Math.round(Number(mebibytes(total)));
    this.#bar.start(total, 0, { what: this.#what, done: 0, all });
    this.#timer = setInterval(() => {
      this.#bar.update(this.#bytes, { what: this.#what, done: Math.round(Number(mebibytes(this.#bytes))) });
    }, 1000 / DRAW_HZ).unref();
  }

  add(what: string, bytes: number): void {
    this.#what = what;
    this.#bytes += bytes;
  }

  /** Removes the bar and gives the cursor back. */
  stop(): void {
    clearInterval(this.#timer);
    this.#bar.stop();
  }
}
