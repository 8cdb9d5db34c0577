/**
 * Every order in which FLUSHes, watched calls, fdatasync and one failing write-back can follow each other, on
 * the real Durability over a fake kernel: one error mark, told once, to whichever call looks first.
 */
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { pathToFileURL } from 'node:url';
import { describe, expect, test } from 'vitest';
import type { RangeResult } from '../../src/native/call.ts';
import { EDQUOT, EFBIG, EINVAL, EIO, ENOSPC } from '../../src/native/errno.ts';
import { BackendError } from '../../src/plugins/backend-error.ts';
import { Durability } from '../../src/plugins/file/durability.ts';
import { FakeLog } from '../server/fake-log.ts';

const SIZE = 1024 * 1024;
const RANGE = { offset: 4096, length: 8192 };

type DurabilityClass = typeof Durability;

/** A system call in the fake kernel: it begins, looks at the mark, and is reported to the event loop. */
interface PendingCall {
  readonly beganAt: number;
  result: number | undefined;
  isReported: boolean;
  readonly report: () => void;
}

interface Flush {
  readonly calledAt: number;
  readonly isAfterLoss: boolean;
  outcome: 'pending' | 'success' | 'error';
  errno: number;
}

interface Scenario {
  readonly flushCount: number;
  readonly watchCount: number;
}

/** One world: the steps that are possible now, by name; `take` makes one. */
class World {
  readonly durability: Durability;
  readonly log = new FakeLog();
  readonly flushes: Flush[] = [];
  readonly syncs: PendingCall[] = [];
  lossCalls = 0;
  readonly #watched: PendingCall[] = [];
  readonly #scenario: Scenario;
  #time = 0;
  #mark = 0;
  #hasFailed = false;

  constructor(implementation: DurabilityClass, scenario: Scenario) {
    this.#scenario = scenario;
    this.durability = new implementation({
      fd: 3,
      size: SIZE,
      log: this.log,
      onLoss: () => {
        this.lossCalls += 1;
      },
      fdatasync: () => new Promise((resolveSync) => this.#begin(this.syncs, resolveSync)),
    });
  }

  get hasFailed(): boolean {
    return this.#hasFailed;
  }

  steps(): string[] {
    const calls = [
      ...this.#watched.map((call, index) => stepOf(call, `watched ${index}`)),
      ...this.syncs.map((call, index) => stepOf(call, `sync ${index}`)),
    ].filter((step) => step !== undefined);
    return [
      ...(this.#hasFailed ? [] : ['lose']),
      ...(this.flushes.length < this.#scenario.flushCount ? ['flush'] : []),
      ...(this.#watched.length < this.#scenario.watchCount ? ['watch'] : []),
      ...calls,
    ];
  }

  async take(step: string): Promise<void> {
    this.#time += 1;
    const [verb, kind, index] = step.split(' ');
    const call = (kind === 'sync' ? this.syncs : this.#watched)[Number(index)];
    if (verb === 'lose') {
      this.#hasFailed = true;
      this.#mark = ENOSPC;
    } else if (verb === 'flush') {
      this.#flush();
    } else if (verb === 'watch') {
      const work = new Promise<RangeResult>((resolveWork) => {
        this.#begin(this.#watched, (result) => resolveWork({ result, ...RANGE }));
      });
      void this.durability.watch('sync_file_range', () => work);
    } else if (verb === 'look' && call !== undefined) {
      call.result = this.#mark === 0 ? 0 : -this.#mark;
      this.#mark = 0;
    } else if (call !== undefined) {
      call.isReported = true;
      call.report();
    }
    // Promises settle in microtasks: a turn of the event loop lets all of them run.
    await nextTurn();
  }

  /** The fdatasync that covers a FLUSH: it began after it was called, and has looked. */
  isCovered(flush: Flush): boolean {
    return this.syncs.some((sync) => sync.beganAt >= flush.calledAt && sync.isReported);
  }

  #begin(calls: PendingCall[], resolveCall: (result: number) => void): void {
    const call: PendingCall = {
      beganAt: this.#time,
      result: undefined,
      isReported: false,
      report: () => resolveCall(call.result ?? 0),
    };
    calls.push(call);
  }

  #flush(): void {
    const flush: Flush = { calledAt: this.#time, isAfterLoss: this.#hasFailed, outcome: 'pending', errno: 0 };
    this.flushes.push(flush);
    this.durability.flush().then(
      () => {
        flush.outcome = 'success';
      },
      (error: unknown) => {
        flush.outcome = 'error';
        flush.errno = error instanceof Error && 'errno' in error ? Number(error.errno) : 0;
      },
    );
  }
}

function stepOf(call: PendingCall, name: string): string | undefined {
  return call.isReported ? undefined : `${call.result === undefined ? 'look' : 'report'} ${name}`;
}

/** What is wrong with a world after a step; undefined for nothing. */
function fault(world: World): string | undefined {
  for (const flush of world.flushes) {
    if (flush.outcome === 'success' && flush.isAfterLoss) return 'a FLUSH succeeds after a loss';
    if (flush.outcome === 'success' && !world.isCovered(flush))
      return 'a FLUSH succeeds without an fdatasync';
  }
  return undefined;
}

/** At the end of an order: everything was answered, and the loss is known. */
function faultAtEnd(world: World): string | undefined {
  if (world.flushes.some(({ outcome }) => outcome === 'pending')) return 'a FLUSH is never answered';
  const errors = world.flushes.filter(({ outcome }) => outcome === 'error');
  if (errors.length > 0 && world.durability.lost === undefined) return 'an error is not latched';
  if (errors.length > 0 && errors[0]?.errno !== ENOSPC) return 'the first failing FLUSH does not say why';
  if (world.durability.lost !== undefined && world.lossCalls !== 1) return 'onLoss is not called once';
  const logged = world.log.at('error').length;
  if (logged !== (world.durability.lost === undefined ? 0 : 1)) return `the loss is logged ${logged} times`;
  return undefined;
}

interface Search {
  readonly orders: number;
  readonly successes: number;
  readonly failures: number;
  /** The first order that breaks the promise. */
  readonly found: string | undefined;
}

/** Every order, depth first, each from the beginning. */
async function search(implementation: DurabilityClass, scenario: Scenario): Promise<Search> {
  const path: number[] = [];
  let [orders, successes, failures] = [0, 0, 0];
  for (;;) {
    const world = new World(implementation, scenario);
    const widths: number[] = [];
    const taken: string[] = [];
    let wrong: string | undefined;
    for (let steps = world.steps(); steps.length > 0 && wrong === undefined; steps = world.steps()) {
      const choice = path[taken.length] ?? 0;
      path[taken.length] = choice;
      widths.push(steps.length);
      const step = steps[choice] ?? '';
      taken.push(step);
      await world.take(step);
      wrong = fault(world);
    }
    wrong ??= faultAtEnd(world);
    orders += 1;
    successes += world.flushes.filter(({ outcome }) => outcome === 'success').length;
    failures += world.flushes.filter(({ outcome }) => outcome === 'error').length;
    if (wrong !== undefined) return { orders, successes, failures, found: `${wrong}: ${taken.join(', ')}` };
    path.length = widths.length;
    while (path.length > 0 && (path.at(-1) ?? 0) + 1 >= (widths[path.length - 1] ?? 0)) path.pop();
    if (path.length === 0) return { orders, successes, failures, found: undefined };
    path[path.length - 1] = (path.at(-1) ?? 0) + 1;
  }
}

const SCENARIOS: readonly Scenario[] = [
  { flushCount: 1, watchCount: 1 },
  { flushCount: 2, watchCount: 1 },
  { flushCount: 1, watchCount: 2 },
  { flushCount: 3, watchCount: 0 },
];

test.each(SCENARIOS)(
  'no order of $flushCount FLUSHes and $watchCount watched calls tells a lie',
  async (scenario) => {
    const { orders, successes, failures, found } = await search(Durability, scenario);
    expect(found).toBeUndefined();
    expect(orders).toBeGreaterThan(50);
    expect(successes).toBeGreaterThan(0);
    expect(failures).toBeGreaterThan(0);
  },
);

describe('the search finds a version without', () => {
  const source = resolve(import.meta.dirname, '../../src/plugins/file/durability.ts');

  /** The module as `from` replaced by `to` leaves it, loaded from a temporary file. */
  async function broken(from: string, to: string): Promise<DurabilityClass> {
    const text = readFileSync(source, 'utf8');
    expect(text.split(from)).toHaveLength(2);
    const absolute = text.replace(from, to).replaceAll(/from '(\.[^']+)'/g, (_match, path: string) => {
      return `from '${resolve(source, '..', path)}'`;
    });
    const folder = mkdtempSync(join(tmpdir(), 'nbd-serve-broken-'));
    try {
      const file = join(folder, 'durability.ts');
      writeFileSync(file, absolute);
      const module = (await import(pathToFileURL(file).href)) as { readonly Durability: DurabilityClass };
      return module.Durability;
    } finally {
      rmSync(folder, { recursive: true, force: true });
    }
  }

  test.each([
    ['the latch', '      this.#lost = loss;\n', ''],
    [
      'the wait for calls that overlap',
      '      await Promise.all(this.#watched);\n      if (threads',
      '      if (threads',
    ],
    [
      'an fdatasync of its own for a later FLUSH',
      'this.#following = this.#running.then(start, start);',
      'this.#following = undefined; void start; return this.#running;',
    ],
    [
      'the report of fdatasync itself',
      "this.latch(new BackendError(errnoOf(result), 'fdatasync', 0, size));",
      'void [errnoOf, size];',
    ],
  ])('%s', async (_what, from, to) => {
    const implementation = await broken(from, to);
    const results: (string | undefined)[] = [];
    for (const scenario of SCENARIOS) results.push((await search(implementation, scenario)).found);
    expect(results.filter((found) => found !== undefined)).not.toEqual([]);
  });
});

function durabilityFor(log: FakeLog, fdatasync: () => Promise<number>): Durability {
  return new Durability({ fd: 3, size: SIZE, log, onLoss: () => undefined, fdatasync });
}

async function errnoOfFlush(durability: Durability): Promise<number> {
  return durability.flush().then(
    () => 0,
    (error: unknown) => (error instanceof BackendError ? error.errno : -1),
  );
}

describe('an error of a request', () => {
  test.each([ENOSPC, EDQUOT, EFBIG, EINVAL])(
    'that leaves acknowledged data alone is not latched (%i)',
    async (errno) => {
      const log = new FakeLog();
      const durability = durabilityFor(log, async () => 0);
      const error = new BackendError(errno, 'pwrite', 0, 4096);
      expect(durability.failed(error)).toBe(error);
      expect(durability.lost).toBeUndefined();
      expect(log.lines).toEqual([]);
      expect(await errnoOfFlush(durability)).toBe(0);
    },
  );

  test('that means a failing device is latched, logged once with its range, and told to FLUSH', async () => {
    const log = new FakeLog();
    const durability = durabilityFor(log, async () => 0);
    const error = new BackendError(EIO, 'pwrite', 8192, 4096);
    durability.failed(error);
    expect(error.isLogged).toBe(true);
    expect(durability.lossCount).toBe(1);
    expect(log.at('error').map(({ fields }) => fields)).toEqual([
      { operation: 'pwrite', offset: 8192, length: 4096, errno: 'EIO', lossCount: 1 },
    ]);
    expect(await errnoOfFlush(durability)).toBe(EIO);
    await expect(durability.flushIfChanged()).rejects.toThrow(/lost.*pwrite of 4096 bytes at 8192/);
  });
});

describe('a loss', () => {
  test('is told with its errno once, then with EIO, and fdatasync succeeding changes nothing', async () => {
    const results = [-ENOSPC, 0, 0, 0];
    const log = new FakeLog();
    const durability = durabilityFor(log, async () => results.shift() ?? 0);
    expect(await errnoOfFlush(durability)).toBe(ENOSPC);
    expect(await errnoOfFlush(durability)).toBe(EIO);
    expect(await errnoOfFlush(durability)).toBe(EIO);
    expect(log.at('error')).toHaveLength(1);
  });

  test('of every later call is counted, and logged unless it is the same again', async () => {
    const log = new FakeLog();
    const durability = durabilityFor(log, async () => -EIO);
    await errnoOfFlush(durability);
    await errnoOfFlush(durability);
    await durability.watch('sync_file_range', async () => ({ result: -EIO, ...RANGE }));
    expect(durability.lossCount).toBe(3);
    expect(log.at('error').map(({ fields }) => fields['operation'])).toEqual([
      'fdatasync',
      'sync_file_range',
    ]);
  });
});

describe('flushIfChanged', () => {
  test('makes no call when nothing has changed since the last flush, and one when something has', async () => {
    let calls = 0;
    const durability = durabilityFor(new FakeLog(), async () => {
      calls += 1;
      return 0;
    });
    await durability.flushIfChanged();
    expect(calls).toBe(0);
    durability.changed();
    await durability.flushIfChanged();
    await durability.flushIfChanged();
    expect(calls).toBe(1);
  });

  test('waits for a flush that is under way, and for watched calls', async () => {
    const settle: (() => void)[] = [];
    const durability = durabilityFor(
      new FakeLog(),
      () => new Promise((resolveSync) => settle.push(() => resolveSync(-EIO))),
    );
    durability.changed();
    const flush = errnoOfFlush(durability);
    const end = durability.flushIfChanged().then(
      () => 'clean',
      () => 'lost',
    );
    settle[0]?.();
    expect(await end).toBe('lost');
    expect(await flush).toBe(EIO);

    const other = durabilityFor(new FakeLog(), async () => 0);
    const watched = other.watch('sync_file_range', () => nextTurn().then(() => ({ result: -EIO, ...RANGE })));
    await expect(other.flushIfChanged()).rejects.toThrow('lost');
    await watched;
  });
});
