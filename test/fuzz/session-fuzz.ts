/**
 * Fuzzes the session core: `npm run fuzz -- --runs N --seed S`. An input that fails is kept, as short as it can
 * be made, in test/fuzz/seeds, where test/protocol/fuzz-seeds.test.ts replays it ever after.
 */
import { parseArgs } from 'node:util';
import { runCampaign } from './campaign.ts';
import { readSeeds, writeSeed } from './seed-files.ts';

const { values } = parseArgs({
  options: { runs: { type: 'string', default: '200000' }, seed: { type: 'string', default: '1' } },
});
const [runs, seed] = [Number(values.runs), Number(values.seed)];
if (!Number.isSafeInteger(runs) || !Number.isSafeInteger(seed) || runs < 1) {
  throw new Error('usage: npm run fuzz -- [--runs COUNT] [--seed NUMBER]');
}
const result = runCampaign({ runs, seed, seeds: readSeeds().map(([, input]) => input) });
process.stdout.write(
  `${result.runs} inputs, ${result.featureCount} transitions, ${result.corpusCount} inputs in the corpus\n`,
);
if (result.failure !== undefined) {
  const text = (String(result.failure.error).split('\n')[0] ?? '').slice(0, 200);
  const path = writeSeed(result.failure.input, `Failed with seed ${seed}: ${text}`);
  process.stdout.write(`${text}\nkept as ${path}\n`);
  process.exitCode = 1;
}
