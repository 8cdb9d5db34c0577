/** The inputs in test/fuzz/seeds: each once failed, or reaches something that is hard to reach. */
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { type FuzzInput, formatInput, parseInput } from './fuzz-input.ts';

const FOLDER = join(import.meta.dirname, 'seeds');

export function readSeeds(): [name: string, input: FuzzInput][] {
  return readdirSync(FOLDER)
    .filter((name) => name.endsWith('.txt'))
    .sort()
    .map((name) => [name, parseInput(readFileSync(join(FOLDER, name), 'utf8'))]);
}

/** Keeps an input; its path. */
export function writeSeed(input: FuzzInput, comment: string): string {
  const name = createHash('sha256').update(formatInput(input, '')).digest('hex').slice(0, 12);
  const path = join(FOLDER, `${name}.txt`);
  writeFileSync(path, formatInput(input, comment));
  return path;
}
