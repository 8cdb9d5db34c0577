/** The fuzz run of the session core for a fixed number of inputs, and every input that was kept (test/fuzz). */
import { describe, expect, test } from 'vitest';
import { recordedInputs, runCampaign } from '../fuzz/campaign.ts';
import { type FuzzInput, formatInput, parseInput, runInput } from '../fuzz/fuzz-input.ts';
import { RECORDED_SESSIONS } from '../fuzz/recorded-sessions.ts';
import { readSeeds } from '../fuzz/seed-files.ts';
import { join, pattern } from './bytes.ts';

const SEEDS = readSeeds();

test.each(SEEDS)('the kept input %s is dealt with', (_name, input) => {
  expect(() => runInput(input)).not.toThrow();
});

test('20,000 mutated sessions break no invariant', { timeout: 120_000 }, () => {
  const result = runCampaign({ runs: 20_000, seed: 3, seeds: SEEDS.map(([, input]) => input) });
  expect(result.failure).toBeUndefined();
  expect(result.runs).toBe(20_000);
  // It was some 850 when this was written: far fewer mean that the inputs no longer get anywhere.
  expect(result.featureCount).toBeGreaterThan(500);
});

describe('the fuzz run itself', () => {
  test.each(Object.keys(RECORDED_SESSIONS))('the recorded session %s runs to its end', (name) => {
    const index = Object.keys(RECORDED_SESSIONS).indexOf(name);
    const features = runInput(recordedInputs()[index] as FuzzInput);
    expect([...features].some((feature) => feature.endsWith('>disconnect'))).toBe(true);
  });

  test('writes inputs down so that they can be read again', () => {
    const input = { tls: 2, disk: 1, shutDownAfter: 3, pieces: [1, 20], bytes: join(pattern(200)) };
    expect(parseInput(formatInput(input, 'two\nlines'))).toEqual(input);
  });
});
