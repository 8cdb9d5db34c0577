/** When writes are left to the pool, and for how long. */
import { expect, test } from 'vitest';
import { WRITE_PAUSE_MS_MAX, WRITE_PAUSE_MS_MIN, WriteBet } from '../../../src/plugins/file/write-bet.ts';

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

test('slow ones, each after the last pause, make longer and longer pauses, up to a bound', () => {
  const bet = new WriteBet();
  const pauses: number[] = [];
  for (let now = 0, count = 0; count < 8; count += 1) {
    bet.observe(1.5, now);
    pauses.push(pauseAt(bet, now));
    now += WRITE_PAUSE_MS_MAX;
    // As a throttled writer does.
    for (let quick = 0; quick < 32; quick += 1) bet.observe(0.01, now);
  }
  expect(pauses).toEqual([5, 10, 20, 40, 80, 100, 100, 100]);
});

test('a slow one among many quick ones is the first again', () => {
  const bet = new WriteBet();
  for (let now = 0; now < 10_000; now += 1000) {
    bet.lost(now);
    expect(pauseAt(bet, now)).toBe(WRITE_PAUSE_MS_MIN);
    for (let quick = 0; quick < 64; quick += 1) bet.observe(0.01, now + 500);
  }
});
