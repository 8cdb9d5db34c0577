/** What a load generator asks for: percentages of reads, writes and trims, at random places. */
import { InvalidArgumentError } from '@commander-js/extra-typings';
import type { LoadRequest } from './load-client.ts';

export interface Mix {
  /** Percentages; together 100. */
  readonly read: number;
  readonly write: number;
  readonly trim: number;
}

/** "80/10/10": reads, writes, trims. */
export function parseMix(text: string): Mix {
  const match = /^(\d+)\/(\d+)\/(\d+)$/.exec(text);
  const [read = 0, write = 0, trim = 0] = (match ?? []).slice(1).map(Number);
  if (read + write + trim !== 100) {
    throw new InvalidArgumentError('Give percentages of reads, writes and trims such as 80/10/10.');
  }
  return { read, write, trim };
}

export function describeMix({ read, write, trim }: Mix): string {
  return `${read}/${write}/${trim}`;
}

/** The requests of one connection; `random` gives whole numbers below its argument. */
export function requestsOf(
  { read, write }: Mix,
  blockSize: number,
  size: number,
  random: (limit: number) => number,
): () => LoadRequest {
  const blockCount = Math.floor(size / blockSize);
  return () => {
    const lot = random(100);
    return {
      type: lot < read ? 'read' : lot < read + write ? 'write' : 'trim',
      offset: random(blockCount) * blockSize,
      length: blockSize,
    };
  };
}
