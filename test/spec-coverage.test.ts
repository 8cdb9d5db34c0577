/** SPECIFICATION.md names a test for every duty; each of them must exist. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';

const ROOT = import.meta.dirname;

interface Row {
  readonly requirement: string;
  readonly evidence: string;
}

const rows: readonly Row[] = readFileSync(join(ROOT, 'SPECIFICATION.md'), 'utf8')
  .split('\n')
  .filter((line) => line.startsWith('| ') && !line.startsWith('| requirement'))
  .map((line) => {
    const [, requirement = '', evidence = ''] = /^\| (.*) \| (.*) \|$/.exec(line) ?? [];
    return { requirement, evidence };
  });

/** Whether a file has a test of this title, as it stands in its source. */
function hasTest(path: string, title: string): boolean {
  if (!existsSync(join(ROOT, path))) return false;
  const source = readFileSync(join(ROOT, path), 'utf8');
  const quoted = ["'", '"', '`'].some((quote) => source.includes(`(${quote}${title}${quote},`));
  // Behind a table of cases the title may stand on a line of its own.
  return quoted || source.split('\n').some((line) => [`'${title}',`, `"${title}",`].includes(line.trim()));
}

test('the table has a row for every duty, with a test or a reason', () => {
  expect(rows.length).toBeGreaterThan(100);
  const bare = rows.filter(({ evidence }) => !/^(`[^`]+\.test\.ts` \S|not applicable: \S)/.test(evidence));
  expect(bare).toEqual([]);
});

test('every test that the table names exists', () => {
  const missing = rows.flatMap(({ evidence }) => {
    if (evidence.startsWith('not applicable: ')) return [];
    return evidence.split('<br>').filter((entry) => {
      const [, path = '', title = ''] = /^`([^`]+)` (.+)$/.exec(entry) ?? [];
      return !hasTest(path, title);
    });
  });
  expect(missing).toEqual([]);
});

test('a title that nobody uses is noticed', () => {
  expect(hasTest('protocol/handshake.test.ts', 'MUST close on unknown client flags %i')).toBe(true);
  expect(hasTest('protocol/handshake.test.ts', 'MUST close on unknown client flags')).toBe(false);
  expect(hasTest('protocol/no-such.test.ts', 'client flags')).toBe(false);
});
