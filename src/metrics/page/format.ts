/** Numbers as text for people: three digits and a unit. The browser uses these as well. */

const BINARY_PREFIXES = ['', 'Ki', 'Mi', 'Gi', 'Ti', 'Pi', 'Ei'];

/** `0 B`, `1.50 KiB`, `340 MiB`. */
export function formatBytes(bytes: number): string {
  let amount = bytes;
  let prefix = 0;
  // 999.5 would be rounded to four digits.
  while (amount >= 999.5 && prefix < BINARY_PREFIXES.length - 1) {
    amount /= 1024;
    prefix += 1;
  }
  return `${prefix === 0 ? Math.round(amount) : threeDigits(amount)} ${BINARY_PREFIXES[prefix]}B`;
}

/** `7`, `12 345`, `1.23 M`. */
export function formatCount(count: number): string {
  if (count < 99_999.5) {
    return groupDigits(Math.round(count));
  }
  let amount = count / 1000;
  let unit = 'k';
  for (const next of ['M', 'G', 'T']) {
    if (amount < 999.5) break;
    amount /= 1000;
    unit = next;
  }
  return `${threeDigits(amount)} ${unit}`;
}

/** A count per second; small ones with a decimal. */
export function formatRate(perSecond: number): string {
  return perSecond > 0 && perSecond < 9.95 ? perSecond.toFixed(1) : formatCount(perSecond);
}

/** `3.20 µs`, `15.0 ms`, `1.20 s`. */
export function formatSeconds(seconds: number): string {
  if (seconds < 999.5e-6) {
    return `${threeDigits(seconds * 1e6)} µs`;
  }
  return seconds < 0.9995 ? `${threeDigits(seconds * 1e3)} ms` : `${threeDigits(seconds)} s`;
}

/** `45 s`, `3 min 20 s`, `5 h 10 min`, `12 d 3 h`. */
export function formatDuration(seconds: number): string {
  const whole = Math.floor(seconds);
  const [days, hours, minutes] = [
    Math.floor(whole / 86_400),
    Math.floor(whole / 3600),
    Math.floor(whole / 60),
  ];
  if (days > 0) return `${days} d ${hours % 24} h`;
  if (hours > 0) return `${hours} h ${minutes % 60} min`;
  return minutes > 0 ? `${minutes} min ${whole % 60} s` : `${whole} s`;
}

/** `0 %`, `under 0.1 %`, `0.3 %`, `45 %`: nothing that is there is rounded to nothing, nor what is missing to all. */
export function formatShare(share: number): string {
  const percent = share * 100;
  if (percent > 0 && percent < 0.1) return 'under 0.1 %';
  if (percent > 0 && percent < 9.95) return `${percent.toFixed(1)} %`;
  return `${percent < 100 ? Math.min(Math.round(percent), 99) : 100} %`;
}

function threeDigits(amount: number): string {
  if (amount === 0 || amount >= 99.95) return String(Math.round(amount));
  return amount.toFixed(amount >= 9.995 ? 1 : 2);
}

function groupDigits(whole: number): string {
  // A no-break thin space: a comma is a decimal point to half of the readers.
  return String(whole).replaceAll(/\B(?=(\d{3})+$)/g, '\u202f');
}
