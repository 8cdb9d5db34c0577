/** When writes are left to the pool, and for how long. */
import { expect, test } from 'vitest';
import { WRITE_PAUSE_MS_MAX, WriteBet } from '../../../src/plugins/file/write-bet.ts';

/** Milliseconds from `now` until it writes again. */
function pauseAt(bet: WriteBet, now: number): number {
  let pause = 0;
  while (bet.isPaused(now + pause)) pause += 1;
  return pause;
}

test('quick writes are no reason for a pause', () => {
  const bet = new WriteBet();
  for (let now = 0; now < 1000; now += 1) {
    bet.observe(1, now);
    expect(bet.isPaused(now)).toBe(false);
  }
});

test.each([
  [1.1, 11],
  [4, 40],
  [50, WRITE_PAUSE_MS_MAX],
  [500, WRITE_PAUSE_MS_MAX],
])('a write that took %d ms is worth a pause of %d ms, each time anew', (milliseconds, pause) => {
  const bet = new WriteBet();
  for (let now = 5; now < 10_000; now += 2000) {
    bet.observe(milliseconds, now);
    expect(pauseAt(bet, now)).toBe(pause);
    for (let quick = 0; quick < 1000; quick += 1) bet.observe(0.01, now + 1500);
  }
});

test('a file that takes no splices is tried again soon', () => {
  const bet = new WriteBet();
  bet.lost(0.001, 100);
  expect(pauseAt(bet, 100)).toBe(5);
});
