/** What FLUSH promises when several threads serve a file: the links of two threads and the main one, all in one thread. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, expect, test } from 'vitest';
import type { RangeResult } from '../../../src/native/call.ts';
import { BackendError } from '../../../src/plugins/backend-error.ts';
import { Durability } from '../../../src/plugins/file/durability.ts';
import { FileThreads } from '../../../src/plugins/file/file-threads.ts';
import { RemoteDurability } from '../../../src/plugins/file/remote-durability.ts';
import { unsettledWord } from '../../../src/plugins/file/thread-link.ts';
import type { LinuxErrno } from '../../../src/protocol/errno.ts';
import { FakeLog } from '../../server/fake-log.ts';
import { eventually } from '../../support/polling.ts';

const EIO = 5;
const ENOSPC = 28;
const RANGE = { offset: 4096, length: 8192 };

const rigs: Rig[] = [];

afterEach(async () => {
  for (const rig of rigs.splice(0)) await rig.close();
});

class Rig {
  readonly log = new FakeLog();
  readonly threads: FileThreads;
  readonly one: RemoteDurability;
  readonly other: RemoteDurability;
  readonly sweeps: string[] = [];
  lossCount = 0;
  /** Ends of the fdatasyncs that run. */
  readonly syncs: ((result: number) => void)[] = [];
  syncCount = 0;
  readonly #left = new Set<RemoteDurability>();

  constructor() {
    this.threads = new FileThreads(
      3,
      (threads) =>
        new Durability({
          fd: 3,
          size: 65_536,
          log: this.log,
          onLoss: () => {
            this.lossCount += 1;
          },
          threads,
          fdatasync: () => {
            this.syncCount += 1;
            return new Promise((resolve) => this.syncs.push(resolve));
          },
        }),
      () => this.sweeps.push('main'),
    );
    this.one = this.#remote(1, 'one');
    this.other = this.#remote(2, 'other');
    rigs.push(this);
  }

  #remote(thread: number, name: string): RemoteDurability {
    const { words, channels } = this.threads;
    return new RemoteDurability({ words, channels, thread, sweep: () => this.sweeps.push(name) });
  }

  unsettled(thread: number): number {
    return Atomics.load(this.threads.words, unsettledWord(thread));
  }

  /** Ends the fdatasync that runs, or the one that a message is about to start. */
  async sync(result = 0): Promise<void> {
    (await eventually('an fdatasync runs', () => this.syncs.shift()))(result);
  }

  async close(): Promise<void> {
    await Promise.all([this.one, this.other].map((thread) => this.leave(thread)));
    this.threads.close();
  }

  async leave(thread: RemoteDurability): Promise<void> {
    if (!this.#left.has(thread)) {
      this.#left.add(thread);
      await thread.close();
    }
  }
}

/** The errno of a FLUSH, 0 for success. */
async function outcome(flush: Promise<void>): Promise<number> {
  return flush.then(
    () => 0,
    (error: unknown) => {
      expect(error).toBeInstanceOf(BackendError);
      // The main thread has logged what there is to log.
      expect((error as BackendError).isLogged).toBe(true);
      return (error as BackendError).errno;
    },
  );
}

/** A call of `thread` that the test ends. */
function watch(thread: RemoteDurability): (result: number) => void {
  let end: (result: RangeResult) => void = () => {};
  void thread.watch('sync_file_range', () => new Promise((resolve) => (end = resolve)));
  return (result) => end({ result, ...RANGE });
}

/** Long enough for every message that is under way. */
async function someTurns(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await nextTurn();
}

test('a FLUSH of any thread is an fdatasync in the main thread, one at a time', async () => {
  const rig = new Rig();
  const flushes = [rig.one.flush(), rig.other.flush(), rig.one.flush()];
  await someTurns();
  expect(rig.syncCount).toBe(1);
  await rig.sync();
  // Both that came while it ran share the next one.
  await rig.sync();
  await Promise.all(flushes);
  expect(rig.syncCount).toBe(2);
});

test('a FLUSH waits for calls in another thread that overlapped it, and takes their error', async () => {
  const rig = new Rig();
  const end = watch(rig.other);
  let isDone = false;
  const flush = outcome(rig.one.flush()).finally(() => {
    isDone = true;
  });
  await rig.sync(0);
  await someTurns();
  expect(isDone).toBe(false);
  end(-ENOSPC);
  expect(await flush).toBe(ENOSPC);
  // The first FLUSH is told of the errno of the loss, all later ones of any thread EIO.
  for (const thread of [rig.other, rig.one]) {
    const later = outcome(thread.flush());
    await rig.sync(0);
    expect(await later).toBe(EIO);
  }
  expect(rig.log.at('error').map(({ fields }) => fields)).toEqual([
    { operation: 'sync_file_range', errno: 'ENOSPC', lossCount: 1, ...RANGE },
  ]);
  expect(rig.lossCount).toBe(1);
  expect([rig.unsettled(1), rig.unsettled(2)]).toEqual([0, 0]);
});

test('an error that a thread is about to tell counts, too', async () => {
  const rig = new Rig();
  const end = watch(rig.other);
  const flush = outcome(rig.one.flush());
  await eventually('the fdatasync runs', () => (rig.syncs.length > 0 ? true : undefined));
  // In one turn: the message of the loss and the end of the fdatasync are a race.
  end(-ENOSPC);
  await rig.sync(0);
  expect(await flush).toBe(ENOSPC);
});

test('a call is counted before it can have an error', () => {
  const rig = new Rig();
  let counted = 0;
  void rig.other.watch('sync_file_range', async () => {
    counted = rig.unsettled(2);
    return { result: 0, ...RANGE };
  });
  expect(counted).toBe(1);
});

test('calls that succeed delay a FLUSH and leave nothing behind', async () => {
  const rig = new Rig();
  const ends = [watch(rig.one), watch(rig.other), watch(rig.other)];
  const flush = outcome(rig.one.flush());
  await rig.sync(0);
  for (const end of ends) end(0);
  expect(await flush).toBe(0);
  expect([rig.unsettled(1), rig.unsettled(2)]).toEqual([0, 0]);
});

test('a FLUSH does not wait for calls that began after it had all it needs', async () => {
  const rig = new Rig();
  const first = watch(rig.other);
  const flush = outcome(rig.one.flush());
  await rig.sync(0);
  await someTurns();
  const second = watch(rig.other);
  first(0);
  expect(await flush).toBe(0);
  second(0);
});

test('a failing device met by a request of one thread is latched for all of them', async () => {
  const rig = new Rig();
  const error = new BackendError(EIO as LinuxErrno, 'pwrite', 512, 1024);
  expect(rig.other.failed(error)).toBe(error);
  expect(error.isLogged).toBe(true);
  const flush = outcome(rig.one.flush());
  await rig.sync(0);
  expect(await flush).toBe(EIO);
  expect(rig.log.at('error')).toHaveLength(1);
  expect(rig.lossCount).toBe(1);
});

test('a request that is refused for want of space is not', async () => {
  const rig = new Rig();
  rig.other.failed(new BackendError(ENOSPC as LinuxErrno, 'pwrite', 512, 1024));
  const flush = outcome(rig.one.flush());
  await rig.sync(0);
  expect(await flush).toBe(0);
  expect(rig.log.lines).toEqual([]);
});

test('what a thread has changed is flushed at the end, once', async () => {
  const rig = new Rig();
  await rig.threads.durability.flushIfChanged();
  expect(rig.syncCount).toBe(0);
  rig.other.changed();
  const end = rig.threads.durability.flushIfChanged();
  await rig.sync();
  await end;
  await rig.threads.durability.flushIfChanged();
  expect(rig.syncCount).toBe(1);
  // A change while an fdatasync runs may be behind it.
  const flush = rig.one.flush();
  await eventually('the fdatasync runs', () => (rig.syncs.length > 0 ? true : undefined));
  rig.other.changed();
  await rig.sync();
  await flush;
  const again = rig.threads.durability.flushIfChanged();
  await rig.sync();
  await again;
  expect(rig.syncCount).toBe(3);
});

test('a FLUSH in one thread has the others sweep their pages', async () => {
  const rig = new Rig();
  rig.one.sweepOthers();
  await eventually('the others sweep', () => (rig.sweeps.length > 1 ? true : undefined));
  await someTurns();
  expect(rig.sweeps).toEqual(['main', 'other']);
});

test('a FLUSH in the main thread has the others sweep theirs', async () => {
  const rig = new Rig();
  rig.threads.sweepOthers();
  await eventually('both sweep', () => (rig.sweeps.length > 1 ? true : undefined));
  await someTurns();
  expect(rig.sweeps.toSorted()).toEqual(['one', 'other']);
});

test('a FLUSH in the main thread is one fdatasync, and covers calls of the others', async () => {
  const rig = new Rig();
  const end = watch(rig.one);
  const flush = outcome(rig.threads.durability.flush());
  await rig.sync(0);
  end(-ENOSPC);
  expect(await flush).toBe(ENOSPC);
  expect(rig.syncCount).toBe(1);
});

test('a FLUSH does not wait for the answer of a thread that leaves meanwhile', async () => {
  const rig = new Rig();
  const end = watch(rig.one);
  const flush = outcome(rig.threads.durability.flush());
  await rig.sync(0);
  end(0);
  // Before the question has come.
  await rig.leave(rig.one);
  expect(await flush).toBe(0);
});

test('what a thread that has left never told of counts as lost, for good', async () => {
  const rig = new Rig();
  await rig.leave(rig.one);
  await someTurns();
  Atomics.store(rig.threads.words, unsettledWord(1), 1);
  for (let round = 0; round < 2; round += 1) {
    const flush = outcome(rig.threads.durability.flush());
    await rig.sync(0);
    expect(await flush).toBe(EIO);
  }
  expect(rig.lossCount).toBe(1);
});

test('a loss that a thread tells as it leaves fails the FLUSH that has asked it', async () => {
  const rig = new Rig();
  const end = watch(rig.one);
  const flush = outcome(rig.threads.durability.flush());
  await rig.sync(0);
  const left = rig.leave(rig.one);
  end(-ENOSPC);
  await left;
  expect(await flush).toBe(ENOSPC);
  expect(rig.unsettled(1)).toBe(0);
});
