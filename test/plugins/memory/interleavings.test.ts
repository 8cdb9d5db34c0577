/**
 * Every order of steps of small cases, two and three threads on the real directory, pools and array. What the
 * threads have read and what the disk holds in the end must come from some order of the operations, halves of
 * pages apart (NBD knows no order between requests that overlap in time); and no memory is lost.
 */
import { describe, expect, test } from 'vitest';
import { doNotStepOn, explore } from './interleavings.ts';
import { HALF, ModelDisk, type ModelThread, PAGE, TABLE } from './model-disk.ts';

/** Places are halves of pages: PAGES[n] is the first half of page n. */
type Operation =
  | { readonly do: 'write'; readonly at: number; readonly values: readonly number[] }
  | { readonly do: 'read'; readonly at: number; readonly count: number }
  | { readonly do: 'zero' | 'keep'; readonly at: number; readonly count: number };

function write(at: number, ...values: number[]): Operation {
  return { do: 'write', at, values };
}

function read(at: number, count: number): Operation {
  return { do: 'read', at, count };
}

/** TRIM, or WRITE_ZEROES. */
function trim(at: number, count: number): Operation {
  return { do: 'zero', at, count };
}

/** WRITE_ZEROES with NO_HOLE. */
function zeroInPlace(at: number, count: number): Operation {
  return { do: 'keep', at, count };
}

function perform(thread: ModelThread, operations: readonly Operation[]): number[][] {
  const answers: number[][] = [];
  for (const operation of operations) {
    const offset = operation.at * HALF;
    switch (operation.do) {
      case 'write':
        thread.write(offset, ...operation.values);
        break;
      case 'read':
        answers.push(thread.read(offset, operation.count));
        break;
      case 'zero':
      case 'keep':
        thread.zero(offset, operation.count, operation.do === 'zero');
    }
  }
  return answers;
}

/** One half of an operation: what it writes there, or where its answer goes. */
interface Part {
  readonly at: number;
  readonly value?: number;
  readonly answer?: readonly [operation: number, index: number];
}

function partsOf(operations: readonly Operation[]): Part[][] {
  let readCount = 0;
  return operations.map((operation) => {
    if (operation.do === 'write') {
      return operation.values.map((value, index) => ({ at: operation.at + index, value }));
    }
    const indices = Array.from({ length: operation.count }, (_, index) => index);
    if (operation.do === 'read') {
      readCount += 1;
      return indices.map((index) => ({ at: operation.at + index, answer: [readCount - 1, index] as const }));
    }
    return indices.map((index) => ({ at: operation.at + index, value: 0 }));
  });
}

type Disk = ReadonlyMap<number, number>;

/** Every end of any order: of the operations of each thread one after another, of the parts of each in any order. */
function legalEnds(
  start: Disk,
  threads: readonly (readonly Operation[])[],
  places: readonly number[],
): Set<string> {
  const ends = new Set<string>();
  const seen = new Set<string>();
  const go = (disk: Disk, left: readonly (readonly Part[])[][], answers: readonly number[][][]): void => {
    const key = JSON.stringify([[...disk].sort(), left, answers]);
    if (seen.has(key)) {
      return;
    }
    seen.add(key);
    if (left.every((operations) => operations.length === 0)) {
      ends.add(
        describeEnd(
          answers,
          places.map((place) => disk.get(place) ?? 0),
        ),
      );
      return;
    }
    for (const [thread, operations] of left.entries()) {
      const [parts, ...later] = operations;
      for (const part of parts ?? []) {
        const rest = (parts ?? []).filter((other) => other !== part);
        const nextLeft = left.map((own, index) =>
          index === thread ? (rest.length > 0 ? [rest, ...later] : later) : [...own],
        );
        if (part.answer === undefined) {
          go(new Map(disk).set(part.at, part.value ?? 0), nextLeft, answers);
        } else {
          const [operation, index] = part.answer;
          const changed = structuredClone(answers) as number[][][];
          const rows = changed[thread] ?? [];
          const row = rows[operation] ?? [];
          row[index] = disk.get(part.at) ?? 0;
          rows[operation] = row;
          changed[thread] = rows;
          go(disk, nextLeft, changed);
        }
      }
    }
  };
  go(
    start,
    threads.map(partsOf),
    threads.map(() => []),
  );
  return ends;
}

function describeEnd(answers: readonly unknown[], finals: readonly number[]): string {
  return JSON.stringify([answers, finals]);
}

const SIZE = 3 * TABLE;
const FIRST = 0;
const SECOND = PAGE / HALF;
/** The first page of the next table. */
const FAR = TABLE / HALF;

interface Case {
  readonly name: string;
  readonly before: readonly Operation[];
  readonly threads: readonly (readonly Operation[])[];
  /** Without it every order is followed. */
  readonly interruptionCountMax?: number;
}

function runCase({ before, threads, interruptionCountMax }: Case): { stateCount: number; endCount: number } {
  const places = [FIRST, FIRST + 1, SECOND, SECOND + 1, FAR, FAR + 1];
  const start = new Map<number, number>();
  for (const part of partsOf(before).flat()) {
    start.set(part.at, part.value ?? 0);
  }
  const legal = legalEnds(start, threads, places);
  let disk: ModelDisk | undefined;
  const fresh = (): ModelThread => {
    if (disk === undefined) {
      throw new Error('no disk');
    }
    return disk.attach();
  };
  return explore(
    () => {
      disk = new ModelDisk(SIZE, 100);
      for (const counter of disk.counters) {
        doNotStepOn(counter);
      }
      perform(fresh(), before);
    },
    threads.map((operations) => () => perform(fresh(), operations)),
    ({ results, inspect }) => {
      const finals = inspect(() => places.flatMap((place) => fresh().read(place * HALF, 1)));
      const end = describeEnd(results, finals);
      if (!legal.has(end)) {
        throw new Error(`This end comes from no order: ${end}`);
      }
      // Nobody is left in the middle of anything, and everything can be given back.
      const users = inspect(() => disk?.users());
      if (users?.some((count) => count !== 2 ** 24) === true) {
        throw new Error(`Pins were left: ${users}`);
      }
      const left = inspect(() => {
        fresh().zero(0, SIZE / HALF);
        return [disk?.used, disk?.users()];
      });
      expect(left).toEqual([0, []]);
    },
    interruptionCountMax,
  );
}

const CASES: readonly Case[] = [
  {
    name: 'two writes to one hole',
    before: [],
    threads: [[write(FIRST, 1)], [write(FIRST + 1, 2)]],
  },
  {
    name: 'a write and a TRIM of its page',
    before: [write(FIRST, 1, 2)],
    threads: [[write(FIRST, 3)], [trim(FIRST, 2)]],
  },
  {
    name: 'a read and a TRIM of its page, then a write to another page: the slot changes hands',
    before: [write(FIRST, 1, 2)],
    threads: [[read(FIRST, 2)], [trim(FIRST, 2), write(SECOND, 8, 9)]],
  },
  {
    name: 'a write and a TRIM of its page, then a write to another page: the slot changes hands',
    before: [write(FIRST, 1, 2), write(SECOND, 5)],
    threads: [[write(FIRST, 3, 4)], [trim(FIRST, 2), write(SECOND, 8, 9)]],
  },
  {
    name: 'a read and a slot that goes away and comes back',
    before: [write(FIRST, 1, 2), write(SECOND, 5)],
    threads: [[read(FIRST, 2)], [trim(FIRST, 2), write(SECOND, 8, 9), trim(SECOND, 2), write(FIRST, 3, 4)]],
  },
  {
    name: 'the last page of a table goes while a page of it is written',
    before: [write(FIRST, 1, 2)],
    threads: [[write(SECOND, 3)], [trim(FIRST, 2)]],
  },
  {
    name: 'a table changes hands while a page is added to it',
    before: [write(FIRST, 1, 2)],
    threads: [[write(SECOND, 3)], [trim(FIRST, 2), write(FAR, 8)]],
  },
  {
    name: 'a table changes hands while a page is read',
    before: [write(FIRST, 1, 2)],
    threads: [[read(FIRST, 2)], [trim(FIRST, 2), write(FAR, 8, 9)]],
  },
  {
    name: 'a table changes hands while a page is trimmed',
    before: [write(FIRST, 1, 2)],
    threads: [[trim(FIRST, 2)], [trim(FIRST, 2), write(FAR, 8, 9)]],
  },
  {
    name: 'a table changes hands and comes back while a page is read',
    before: [write(FIRST, 1, 2)],
    threads: [[read(FIRST, 2)], [trim(FIRST, 2), write(FAR, 8), trim(FAR, 2), write(FIRST, 3, 4)]],
    interruptionCountMax: 4,
  },
  {
    name: 'a page that becomes all zeros while its other half is written',
    before: [write(FIRST, 1)],
    threads: [[trim(FIRST, 1)], [write(FIRST + 1, 2)]],
  },
  {
    name: 'both halves of a page are zeroed',
    before: [write(FIRST, 1, 2)],
    threads: [[trim(FIRST, 1)], [trim(FIRST + 1, 1)]],
  },
  {
    name: 'a page that becomes all zeros while it is read, and written by the reader',
    before: [write(FIRST, 1)],
    threads: [[trim(FIRST, 1)], [read(FIRST, 2), write(FIRST, 4)]],
  },
  {
    name: 'memory is set aside for a hole that is written',
    before: [],
    threads: [[zeroInPlace(FIRST, 2)], [write(FIRST + 1, 2)]],
  },
  {
    name: 'memory is set aside for a page that is trimmed',
    before: [write(FIRST, 1, 2)],
    threads: [[zeroInPlace(FIRST, 1)], [trim(FIRST, 2)]],
  },
  {
    name: 'a write over two pages beside a TRIM of one of them',
    before: [write(FIRST + 1, 1, 2)],
    threads: [[write(FIRST + 1, 3, 4)], [trim(FIRST, 2)]],
  },
  {
    name: 'the first tables of a disk, at the same time',
    before: [],
    threads: [[write(FIRST, 1)], [write(SECOND, 2), trim(SECOND, 2)]],
  },
];

const CASES_OF_THREE: readonly Case[] = [
  {
    name: 'reader, writer and TRIM of one page',
    before: [write(FIRST, 1, 2)],
    threads: [[read(FIRST, 1)], [write(FIRST, 3)], [trim(FIRST, 2)]],
    interruptionCountMax: 2,
  },
  {
    name: 'two TRIMs and a reader',
    before: [write(FIRST, 1, 2)],
    threads: [[trim(FIRST, 2)], [trim(FIRST, 2), write(SECOND, 8)], [read(FIRST, 2)]],
    interruptionCountMax: 2,
  },
  {
    name: 'two halves of a page are zeroed and one is written',
    before: [write(FIRST, 1, 2)],
    threads: [[trim(FIRST, 1)], [trim(FIRST + 1, 1)], [write(FIRST, 5)]],
    interruptionCountMax: 2,
  },
];

/** The longest takes two seconds on an idle machine. */
const TIMEOUT = 120_000;

describe('two threads, in every order of steps', () => {
  test.each(CASES)('$name', { timeout: TIMEOUT }, checkCase);
});

describe('three threads, in every order with two interruptions', () => {
  test.each(CASES_OF_THREE)('$name', { timeout: TIMEOUT }, checkCase);
});

function checkCase(one: Case): void {
  const { stateCount, endCount } = runCase(one);
  expect(stateCount).toBeGreaterThan(100);
  expect(endCount).toBeGreaterThan(1);
}
