/** The writes of one run: which, and so many at a time. */

export type Pattern = 'sequential' | 'random';

export interface Workload {
  readonly pattern: Pattern;
  readonly requestBytes: number;
  /** Requests at a time. */
  readonly depth: number;
  /** Requests of one run: as many bytes as the scratch file has. */
  readonly count: number;
  /** Byte in the file of the request `index`; every run writes the same ones. */
  offsetOf(index: number): number;
}

/** Copies of whole images, and guests that work on one: what NBD clients send. */
const REQUESTS = {
  sequential: { requestBytes: 64 * 1024, depth: 16 },
  random: { requestBytes: 4096, depth: 32 },
} as const;

/** The scratch file is a multiple of it. */
export const SCRATCH_UNIT_BYTES = REQUESTS.sequential.requestBytes;

export function workloadOf(pattern: Pattern, size: number): Workload {
  const { requestBytes, depth } = REQUESTS[pattern];
  const count = Math.floor(size / requestBytes);
  return {
    pattern,
    requestBytes,
    depth,
    count,
    offsetOf:
      pattern === 'sequential'
        ? (index) => index * requestBytes
        : (index) => (mix(index) % count) * requestBytes,
  };
}

/** A number from 0 to 2^32-1 that looks random, the same for the same index (the finisher of MurmurHash3). */
function mix(index: number): number {
  let bits = index + 0x9e37_79b9;
  bits = Math.imul(bits ^ (bits >>> 16), 0x85eb_ca6b);
  bits = Math.imul(bits ^ (bits >>> 13), 0xc2b2_ae35);
  return (bits ^ (bits >>> 16)) >>> 0;
}
