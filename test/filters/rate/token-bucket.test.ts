/** How long requests wait for their bytes. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { TokenBucket } from '../../../src/filters/rate/token-bucket.ts';

test('what the bucket holds goes through at once, and the rest at the rate', () => {
  const bucket = new TokenBucket(1000, 500);
  expect([100, 400, 100, 1000].map((bytes) => bucket.take(bytes, 0))).toEqual([0, 0, 100, 1100]);
  expect(bucket.take(0, 1600), 'it is empty').toBe(0);
  expect(bucket.take(500, 2100), 'and full again half a second later').toBe(0);
  expect(bucket.take(1, 2100)).toBe(1);
});

test('a long pause fills the bucket no further than to the brim', () => {
  const bucket = new TokenBucket(1000, 500);
  expect(bucket.take(500, 1_000_000)).toBe(0);
  expect(bucket.take(500, 1_000_000)).toBe(500);
});

test('no span of time has more bytes than the rate and one bucket', () => {
  const requests = fc.array(fc.record({ bytes: fc.nat(5000), pause: fc.nat(3000) }), { minLength: 1 });
  fc.assert(
    fc.property(requests, fc.integer({ min: 1, max: 5000 }), fc.nat(5000), (all, rate, burst) => {
      const bucket = new TokenBucket(rate, burst);
      let now = 0;
      const passed = all.map(({ bytes, pause }) => {
        now += pause;
        return { bytes, at: now + bucket.take(bytes, now) };
      });
      for (const [index, { at: begin }] of passed.entries()) {
        let sum = 0;
        for (const { bytes, at } of passed.slice(index + 1)) {
          expect(at, 'first come, first served').toBeGreaterThanOrEqual(begin - 0.001);
          sum += bytes;
          expect(sum).toBeLessThanOrEqual(((at - begin) * rate) / 1000 + burst + 1);
        }
      }
    }),
  );
});
