/**
 * A fuzz run: mutated inputs, guided by behaviour. An input that makes the session do something that followed
 * upon something else for the first time is mutated further. V8's block coverage as a guide would make a run 2.5
 * times as long (1.8 against 0.7 ms an input, measured). The guidance buys little so far: 849 transitions in 20,000
 * inputs, against 799 without it.
 */
import { randomNumbers } from '../support/random.ts';
import { type Features, type FuzzInput, runInput } from './fuzz-input.ts';
import { mutate, type RandomNumbers } from './mutate.ts';
import { RECORDED_SESSIONS } from './recorded-sessions.ts';

export interface Campaign {
  readonly runs: number;
  readonly seed: number;
  /** Inputs to start from beside the recorded sessions. */
  readonly seeds: readonly FuzzInput[];
}

export interface CampaignResult {
  readonly runs: number;
  readonly featureCount: number;
  readonly corpusCount: number;
  readonly failure?: { readonly input: FuzzInput; readonly error: unknown };
}

const CORPUS_COUNT_MAX = 4096;
const MINIMISE_RUNS_MAX = 5000;

export function recordedInputs(): FuzzInput[] {
  return Object.entries(RECORDED_SESSIONS).map(([name, bytes]) => ({
    ...{ tls: name === 'start-tls' ? 2 : 0, disk: 0, shutDownAfter: 0, pieces: [] },
    bytes,
  }));
}

export function runCampaign({ runs, seed, seeds }: Campaign): CampaignResult {
  const random = randomNumbers(seed);
  const corpus = [...recordedInputs(), ...seeds];
  const known = new Set<string>();
  for (let run = 0; run < runs; run += 1) {
    const input = run < corpus.length ? (corpus[run] as FuzzInput) : next(corpus, random);
    let features: Features;
    try {
      features = runInput(input);
    } catch (error) {
      const failure = { input: minimise(input), error };
      return { runs: run + 1, featureCount: known.size, corpusCount: corpus.length, failure };
    }
    let isNew = false;
    for (const feature of features) {
      if (!known.has(feature)) {
        known.add(feature);
        isNew = true;
      }
    }
    if (isNew && corpus.length < CORPUS_COUNT_MAX) corpus.push(input);
  }
  return { runs, featureCount: known.size, corpusCount: corpus.length };
}

function next(corpus: readonly FuzzInput[], random: RandomNumbers): FuzzInput {
  const pick = (): FuzzInput => corpus[random(corpus.length)] as FuzzInput;
  const input = pick();
  const bytes = mutate(input.bytes, pick().bytes, random);
  return {
    tls: random(8) === 0 ? random(3) : input.tls,
    disk: random(8) === 0 ? random(4) : input.disk,
    shutDownAfter: random(16) === 0 ? random(8) : 0,
    pieces: Array.from({ length: random(4) }, () => 1 + random(2 ** random(11))),
    bytes,
  };
}

function fails(input: FuzzInput): boolean {
  try {
    runInput(input);
    return false;
  } catch {
    return true;
  }
}

/** The same failure, or another one, with fewer bytes. */
function minimise(failing: FuzzInput): FuzzInput {
  let best = failing;
  let budget = MINIMISE_RUNS_MAX;
  for (let size = best.bytes.length >> 1; size >= 1; size >>= 1) {
    for (let at = 0; at < best.bytes.length && budget > 0; budget -= 1) {
      const { bytes } = best;
      const shorter = Uint8Array.from([...bytes.subarray(0, at), ...bytes.subarray(at + size)]);
      const candidate = { ...best, bytes: shorter };
      if (fails(candidate)) best = candidate;
      else at += size;
    }
  }
  return best;
}
