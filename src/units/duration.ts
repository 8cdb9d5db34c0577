/** Durations on the command line: a whole number with its unit, ms, s or m. */
const MILLISECONDS: Readonly<Record<string, number>> = { ms: 1, s: 1000, m: 60_000 };

/** Milliseconds, or undefined when the text is no duration. What is too long to count comes back as Infinity. */
export function parseDuration(text: string): number | undefined {
  const match = /^(\d+)(ms|s|m)$/.exec(text);
  if (match === null) {
    return undefined;
  }
  const [, digits = '', unit = ''] = match;
  const milliseconds = Number(digits) * (MILLISECONDS[unit] ?? Number.NaN);
  return Number.isSafeInteger(milliseconds) ? milliseconds : Number.POSITIVE_INFINITY;
}
