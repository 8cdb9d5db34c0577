/** A part of a file that is sent from the page cache. */
export interface FilePart {
  readonly fd: number;
  readonly offset: number;
  /** Bytes, above zero. */
  readonly length: number;
  /** Whether all of the part from `position` on can be sent without waiting for a disk. */
  isResident(position: number): boolean;
  /** The bytes from `position` on, if it is as well to have them copied now. */
  copyRest(position: number): Uint8Array | undefined;
  /**
   * The bytes from `position` on; rejects when nothing can be sent in their place. Then the connection ends, unless nothing
   * of the header is gone: then `failed` is called in place of `sent`.
   */
  readRest(position: number): Promise<Uint8Array>;
  failed(error: unknown): void;
  /** The kernel has all of it, or the socket is gone. */
  sent(): void;
}
