/** What FLUSH promises, over every short interleaving of writes, flushes, watched calls and their errors. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import type { RangeResult } from '../../../src/native/call.ts';
import { BackendError } from '../../../src/plugins/backend-error.ts';
import { Durability } from '../../../src/plugins/file/durability.ts';
import type { LinuxErrno } from '../../../src/protocol/errno.ts';
import { FakeLog } from '../../server/fake-log.ts';

const EIO = 5;
const ENOSPC = 28;
const SIZE = 4096;

interface Running {
  finish(result: number): void;
}

/** A promise that the test settles. */
function deferred<Value>(): { promise: Promise<Value>; resolve: (value: Value) => void } {
  let resolve: (value: Value) => void = () => {};
  const promise = new Promise<Value>((settle) => {
    resolve = settle;
  });
  return { promise, resolve };
}

class Rig {
  readonly log = new FakeLog();
  readonly running: Running[] = [];
  startCount = 0;
  lossCount = 0;
  readonly durability = new Durability({
    fd: 42,
    size: SIZE,
    log: this.log,
    onLoss: () => {
      this.lossCount += 1;
    },
    fdatasync: (fd) => {
      expect(fd).toBe(42);
      this.startCount += 1;
      const { promise, resolve } = deferred<number>();
      this.running.push({
        finish: (result) => {
          this.running.shift();
          resolve(result);
        },
      });
      return promise;
    },
  });

  finish(result = 0): void {
    this.running[0]?.finish(result);
  }

  watch(): (result: number) => void {
    const { promise, resolve } = deferred<RangeResult>();
    void this.durability.watch('sync_file_range', () => promise);
    return (result) => resolve({ result, offset: 100, length: 200 });
  }
}

/** Runs every promise reaction that is due; no timer and no I/O is involved in these tests. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 12; turn += 1) await undefined;
}

function errnoOf(flush: Promise<void>): Promise<number> {
  return flush.then(
    () => 0,
    (error: unknown) => {
      expect(error).toBeInstanceOf(BackendError);
      return (error as BackendError).errno;
    },
  );
}

describe('every interleaving of six steps', () => {
  const STEPS = ['flush', 'finish', 'watch', 'report', 'report-failure', 'finish-failure'] as const;
  type Step = (typeof STEPS)[number];

  interface Sync {
    readonly startedAt: number;
    finishedAt: number;
  }

  interface Watched {
    readonly startedAt: number;
    reportedAt: number;
    readonly report: (result: number) => void;
  }

  /** Plays the steps, then ends everything; checks each success against what had happened until then. */
  async function play(steps: readonly Step[]): Promise<void> {
    let now = 0;
    const syncs: Sync[] = [];
    const watched: Watched[] = [];
    const running: ((result: number) => void)[] = [];
    let isOverlapping = false;
    let firstLossAt = Number.POSITIVE_INFINITY;
    const durability = new Durability({
      fd: 1,
      size: SIZE,
      log: new FakeLog(),
      onLoss: () => {},
      fdatasync: () => {
        const { promise, resolve } = deferred<number>();
        syncs.push({ startedAt: now, finishedAt: Number.POSITIVE_INFINITY });
        running.push(resolve);
        // One at a time.
        isOverlapping ||= running.length > 1;
        return promise;
      },
    });
    let flushCount = 0;
    let settledCount = 0;
    const failures: unknown[] = [];
    /** A failed expectation in a reaction must not get lost, nor be taken for an answer of the code. */
    const check = (expectations: () => void): void => {
      try {
        expectations();
      } catch (error) {
        failures.push(error);
      }
    };
    const flush = (): void => {
      const calledAt = now;
      flushCount += 1;
      durability.flush().then(
        () => {
          settledCount += 1;
          check(() => {
            // A whole fdatasync lies between call and success ...
            const covering = syncs.find((sync) => sync.startedAt >= calledAt && sync.finishedAt <= now);
            expect(covering).toBeDefined();
            // ... what overlapped it has reported, and nothing was lost.
            const { finishedAt = 0 } = covering ?? {};
            expect(watched.filter((call) => call.startedAt < finishedAt && call.reportedAt > now)).toEqual(
              [],
            );
            expect(firstLossAt).toBe(Number.POSITIVE_INFINITY);
          });
        },
        (error: unknown) => {
          settledCount += 1;
          check(() => {
            expect(error).toBeInstanceOf(BackendError);
            expect(firstLossAt).toBeLessThanOrEqual(now);
          });
        },
      );
    };
    const finish = (result: number): void => {
      const sync = syncs.at(-1);
      const resolve = running.shift();
      if (sync === undefined || resolve === undefined) return;
      sync.finishedAt = now;
      if (result < 0) firstLossAt = Math.min(firstLossAt, now);
      resolve(result);
    };
    const report = (result: number): void => {
      const call = watched.find(({ reportedAt }) => reportedAt === Number.POSITIVE_INFINITY);
      if (call === undefined) return;
      call.reportedAt = now;
      if (result < 0) firstLossAt = Math.min(firstLossAt, now);
      call.report(result);
    };
    const watch = (): void => {
      const { promise, resolve } = deferred<RangeResult>();
      void durability.watch('sync_file_range', () => promise);
      watched.push({
        startedAt: now,
        reportedAt: Number.POSITIVE_INFINITY,
        report: (result) => resolve({ result, offset: 0, length: 0 }),
      });
    };
    const actions: Readonly<Record<Step, () => void>> = {
      flush,
      finish: () => finish(0),
      watch,
      report: () => report(0),
      'report-failure': () => report(-EIO),
      'finish-failure': () => finish(-EIO),
    };
    for (const step of steps) {
      now += 1;
      actions[step]();
      await settle();
    }
    // No flush may hang: a sync and a report for each is enough to end them all.
    for (let round = 0; round < steps.length + 1; round += 1) {
      now += 1;
      report(0);
      finish(0);
      await settle();
    }
    expect(failures).toEqual([]);
    expect(isOverlapping).toBe(false);
    expect(settledCount).toBe(flushCount);
    expect(running).toEqual([]);
    now += 1;
    const last = durability.flush();
    finish(0);
    expect(
      await last.then(
        () => true,
        () => false,
      ),
    ).toBe(firstLossAt === Number.POSITIVE_INFINITY);
  }

  test.each(STEPS)('that begin with %s', async (first) => {
    const LENGTH = 6;
    for (let number = 0; number < STEPS.length ** (LENGTH - 1); number += 1) {
      const digits = number.toString(STEPS.length).padStart(LENGTH - 1, '0');
      const steps: Step[] = [first];
      for (const digit of digits) steps.push(STEPS[Number(digit)] ?? 'flush');
      await play(steps).catch((error: unknown) => {
        throw new Error(`After ${steps.join(', ')}: ${String(error)}`, { cause: error });
      });
      if (number % 500 === 0) await nextTurn();
    }
  });
});

describe('flush', () => {
  test('that begins while another one runs shares the next fdatasync with all that do', async () => {
    const rig = new Rig();
    const first = rig.durability.flush();
    const later = [rig.durability.flush(), rig.durability.flush(), rig.durability.flush()];
    expect(rig.startCount).toBe(1);
    rig.finish();
    await first;
    await settle();
    expect(rig.startCount).toBe(2);
    rig.finish();
    await Promise.all(later);
    expect(rig.startCount).toBe(2);
  });

  test('waits for a call that began before its fdatasync ended', async () => {
    const rig = new Rig();
    const report = rig.watch();
    const flush = errnoOf(rig.durability.flush());
    let isSettled = false;
    void flush.then(() => {
      isSettled = true;
    });
    rig.finish();
    await settle();
    expect(isSettled).toBe(false);
    report(-ENOSPC);
    expect(await flush).toBe(ENOSPC);
  });

  test('fails for a loss that was reported before it', async () => {
    const rig = new Rig();
    rig.watch()(-EIO);
    await settle();
    const flush = errnoOf(rig.durability.flush());
    rig.finish();
    expect(await flush).toBe(EIO);
  });
});

describe('the latch', () => {
  test('reports the errno of the loss first and EIO ever after', async () => {
    const rig = new Rig();
    const errnos: number[] = [];
    for (const result of [-ENOSPC, 0, 0]) {
      const flush = errnoOf(rig.durability.flush());
      rig.finish(result);
      errnos.push(await flush);
    }
    expect(errnos).toEqual([ENOSPC, EIO, EIO]);
  });

  test('reports the errno of the loss to one FLUSH only, also when another one waits behind it', async () => {
    const rig = new Rig();
    const first = errnoOf(rig.durability.flush());
    const second = errnoOf(rig.durability.flush());
    rig.finish(-ENOSPC);
    expect(await first).toBe(ENOSPC);
    await settle();
    rig.finish();
    expect(await second).toBe(EIO);
  });

  test('keeps the first loss, with its range, and logs every one', async () => {
    const rig = new Rig();
    rig.watch()(-ENOSPC);
    await settle();
    rig.durability.latch(new BackendError(EIO as LinuxErrno, 'close', 1, 2));
    expect(rig.durability.lost).toMatchObject({
      errno: ENOSPC,
      operation: 'sync_file_range',
      offset: 100,
      length: 200,
    });
    expect(rig.log.at('error').map(({ fields }) => fields)).toMatchObject([
      { operation: 'sync_file_range', offset: 100, length: 200, errno: 'ENOSPC' },
      { operation: 'close', offset: 1, length: 2, errno: 'EIO' },
    ]);
    expect(rig.durability.lossCount).toBe(2);
    expect(rig.lossCount).toBe(1);
  });

  test('of a failing fdatasync names the whole export', async () => {
    const rig = new Rig();
    const flush = errnoOf(rig.durability.flush());
    rig.finish(-EIO);
    await flush;
    expect(rig.durability.lost).toMatchObject({ operation: 'fdatasync', offset: 0, length: SIZE });
  });

  test('a watched call itself never rejects: its plain write was done', async () => {
    const rig = new Rig();
    const { promise, resolve } = deferred<RangeResult>();
    const watched = rig.durability.watch('sync_file_range', () => promise);
    resolve({ result: -EIO, offset: 0, length: 0 });
    await expect(watched).resolves.toBeUndefined();
  });
});

describe('flushIfChanged', () => {
  test('makes no system call when nothing was changed', async () => {
    const rig = new Rig();
    await rig.durability.flushIfChanged();
    expect(rig.startCount).toBe(0);
  });

  test('flushes what changed, also while an fdatasync was running', async () => {
    const rig = new Rig();
    const flush = rig.durability.flush();
    rig.durability.changed();
    rig.finish();
    await flush;
    const atEnd = rig.durability.flushIfChanged();
    expect(rig.startCount).toBe(2);
    rig.finish();
    await atEnd;
    await rig.durability.flushIfChanged();
    expect(rig.startCount).toBe(2);
  });

  test('fails after a loss, although nothing was changed since', async () => {
    const rig = new Rig();
    rig.watch()(-EIO);
    await settle();
    const flush = errnoOf(rig.durability.flushIfChanged());
    rig.finish();
    expect(await flush).toBe(EIO);
  });
});
