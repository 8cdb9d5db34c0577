import { expect, test } from 'vitest';
import { type FioCell, select } from './matrices.ts';

const all = select({ isQuick: false });
const namesOf = (matrices: typeof all): string[] =>
  matrices.flatMap(({ name, cells }) => cells.map((cell) => `${name}/${cell.name}`));

test('no two cells have the same name', () => {
  const names = namesOf(all);
  expect(new Set(names).size).toBe(names.length);
});

test('every target has every size and depth behind a Unix socket, with one and four connections', () => {
  for (const kind of ['file-default', 'file-none', 'memory']) {
    for (const pattern of ['read', 'write']) {
      for (const shape of ['4k-?-d1', '4k-?-d4', '4k-?-d32', '256k-?-d8', '1m-?-d8']) {
        for (const connections of [1, 4]) {
          expect(namesOf(all)).toContain(`${kind}-unix/${shape.replace('?', pattern)}-c${connections}`);
        }
      }
    }
    expect(namesOf(all)).toContain(`${kind}-unix/64k-mixed-d16-c4`);
  }
});

test('a filter matches names of matrix and cell', () => {
  expect(namesOf(select({ isQuick: false, filter: /^memory-tcp\/4k-read-d1-/ }))).toEqual([
    'memory-tcp/4k-read-d1-c1',
    'memory-tcp/4k-read-d1-c4',
  ]);
  expect(select({ isQuick: false, filter: /nothing/ })).toEqual([]);
});

test('the quick cells are some of all, of every kind', () => {
  const quick = select({ isQuick: true });
  expect(namesOf(all)).toEqual(expect.arrayContaining(namesOf(quick)));
  expect(namesOf(quick).length).toBeLessThan(20);
  expect(new Set(quick.map(({ target }) => target))).toEqual(new Set(['file', 'memory']));
  expect(new Set(quick.map(({ transport }) => transport))).toEqual(new Set(['unix', 'tcp', 'tls']));
});

test('cells that go to the disk touch no block twice', () => {
  const none = all.find(({ name }) => name === 'file-none-unix');
  const unbounded = none?.cells.filter((cell) => cell.client === 'fio' && cell.bytesMax === undefined);
  expect(unbounded as FioCell[]).toEqual([]);
});
