/** Quantiles of a histogram whose bounds double. The browser uses these as well. */

/** What was timed between two statuses, or since the start. */
export function bucketsBetween(now: readonly number[], before: readonly number[] | undefined): number[] {
  return now.map((count, index) => count - (before?.[index] ?? 0));
}

/**
 * The latency in seconds that `share` of the requests stayed below, or undefined when none was timed. Inside a
 * bucket latencies count as spread evenly over the logarithm, so that it is off by a factor of 2 at most.
 */
export function quantile(
  bounds: readonly number[],
  buckets: readonly number[],
  share: number,
): number | undefined {
  const count = buckets.reduce((sum, bucket) => sum + bucket, 0);
  if (count === 0) {
    return undefined;
  }
  const wanted = count * share;
  let below = 0;
  for (const [index, bucket] of buckets.entries()) {
    const bound = bounds[index];
    if (bound === undefined) {
      break;
    }
    if (bucket > 0 && below + bucket >= wanted) {
      return bound * 2 ** ((wanted - below) / bucket - 1);
    }
    below += bucket;
  }
  return bounds.at(-1);
}
