/** Where the write windows of `--cache none` are counted for operators. */
export interface WindowCounter {
  /** Adds windows that were given to the disk, waited for, and evicted from the page cache. */
  countWindows(written: number, waited: number, evicted: number): void;
}
