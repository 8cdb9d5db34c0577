/** The threads that serve beside the main one, as that sees them: who gets a connection, and what the end of one means. */
import { EventEmitter } from 'node:events';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import type { FromThread, ThreadSetup, ToThread } from '../../src/server/thread-messages.ts';
import { ServingThreads, ThreadDiedError, type WorkerThread } from '../../src/server/threads.ts';
import type { TlsMaterial } from '../../src/server/tls.ts';

const COUNTERS = new SharedArrayBuffer(8);

class FakeThread extends EventEmitter implements WorkerThread {
  readonly setup: ThreadSetup;
  readonly told: ToThread[] = [];
  terminateCount = 0;

  constructor(setup: ThreadSetup) {
    super();
    this.setup = setup;
  }

  postMessage(message: ToThread): void {
    this.told.push(message);
  }

  say(message: FromThread): void {
    this.emit('message', message);
  }

  async terminate(): Promise<void> {
    this.terminateCount += 1;
    this.emit('exit', 1);
  }

  get descriptors(): number[] {
    return this.told.flatMap((message) => (message.type === 'connection' ? [message.fd] : []));
  }
}

class Rig {
  readonly fakes: FakeThread[] = [];
  readonly lines: string[] = [];
  readonly threads: ServingThreads;

  constructor(workerCount: number, isOptional = false) {
    this.threads = new ServingThreads({
      isOptional,
      threadCount: 1 + workerCount,
      exports: [{ name: 'disk', description: '', module: 'file:///plugin.js', data: { fd: 3 } }],
      isTiming: false,
      busyPollMicroseconds: 0,
      logLevel: 'info',
      handshakeSeconds: 10,
      tls: undefined,
      log: { write: (line) => this.lines.push(line) },
      startThread: (setup) => {
        const fake = new FakeThread(setup);
        this.fakes.push(fake);
        return fake;
      },
    });
  }

  async ready(): Promise<ServingThreads> {
    for (const fake of this.fakes) fake.say({ type: 'ready', counterMemory: COUNTERS });
    await this.threads.ready;
    return this.threads;
  }
}

function reasonOf(threads: ServingThreads): Error {
  return threads.died.reason as Error;
}

test('each thread is told its number, behind the main one, and what it serves; all must be ready', async () => {
  const rig = new Rig(3);
  expect(rig.fakes.map(({ setup }) => setup.thread)).toEqual([1, 2, 3]);
  expect(rig.fakes[2]?.setup).toMatchObject({ threadCount: 4, exports: [{ name: 'disk', data: { fd: 3 } }] });
  // What is started with is copied to the thread: no function may be in it.
  expect(() => structuredClone(rig.fakes[0]?.setup)).not.toThrow();
  let isStarted = false;
  void rig.threads.ready.then(() => {
    isStarted = true;
  });
  for (const fake of rig.fakes.slice(1)) fake.say({ type: 'ready', counterMemory: COUNTERS });
  await nextTurn();
  expect(isStarted).toBe(false);
  await rig.ready();
});

test('a connection goes to the thread that has the fewest', async () => {
  const rig = new Rig(3);
  const threads = await rig.ready();
  for (let fd = 10; fd < 17; fd += 1) void threads.serve(fd, fd);
  expect(rig.fakes.map(({ descriptors }) => descriptors)).toEqual([
    [10, 13, 16],
    [11, 14],
    [12, 15],
  ]);
  expect(threads.connectionCount).toBe(7);
  for (const number of [12, 15]) rig.fakes[2]?.say({ type: 'connection-closed', number, hasOpened: true });
  rig.fakes[0]?.say({ type: 'connection-closed', number: 10, hasOpened: true });
  expect(threads.connectionCount).toBe(4);
  void threads.serve(20, 20);
  void threads.serve(21, 21);
  // Not in turn: two of the third thread's connections are gone.
  expect(rig.fakes[2]?.descriptors).toEqual([12, 15, 20, 21]);
});

test('the end of a connection is told to whoever handed it over, with what became of it', async () => {
  const rig = new Rig(2);
  const threads = await rig.ready();
  const ends = [threads.serve(10, 1), threads.serve(11, 2)];
  rig.fakes[1]?.say({ type: 'connection-closed', number: 2, hasOpened: false });
  rig.fakes[0]?.say({ type: 'connection-closed', number: 1, hasOpened: true });
  expect(await Promise.all(ends)).toEqual([true, false]);
});

test('their lines are part of the one log', async () => {
  const rig = new Rig(2);
  await rig.ready();
  rig.fakes[1]?.say({ type: 'log', line: '{"level":30}\n' });
  expect(rig.lines).toEqual(['{"level":30}\n']);
});

test('new credentials come before the connections that are accepted after them', async () => {
  const rig = new Rig(2);
  const threads = await rig.ready();
  const material: TlsMaterial = { certificates: undefined, pskKeys: new Map(), isPeerVerified: true };
  void threads.serve(10, 1);
  threads.setTls(material);
  void threads.serve(11, 2);
  void threads.serve(12, 3);
  expect(rig.fakes[0]?.told.map(({ type }) => type)).toEqual(['connection', 'tls', 'connection']);
  expect(rig.fakes[1]?.told).toEqual([
    { type: 'tls', material },
    { type: 'connection', fd: 11, number: 2 },
  ]);
});

test.each([
  ['throws', (fake: FakeThread) => fake.emit('error', new Error('It broke')), 'It broke'],
  ['exits', (fake: FakeThread) => fake.emit('exit', 7), 'exit code 7'],
])('the death of a thread that %s is told once, with its reason', async (_how, die, reason) => {
  const rig = new Rig(2);
  const threads = await rig.ready();
  let count = 0;
  threads.died.addEventListener('abort', () => {
    count += 1;
  });
  const [, second] = rig.fakes;
  if (second === undefined) throw new Error('There is no second thread');
  die(second);
  // Node tells the exit after the error.
  second.emit('exit', 1);
  expect(reasonOf(threads)).toBeInstanceOf(ThreadDiedError);
  expect(reasonOf(threads).message).toBe(`Thread 2 ended: ${reason}`);
  expect(count).toBe(1);
});

test('a thread that dies before it is ready is told, to who waits and to who does not', async () => {
  const rig = new Rig(2);
  rig.fakes[0]?.say({ type: 'ready', counterMemory: COUNTERS });
  rig.fakes[1]?.emit('error', new Error('Cannot find module'));
  await expect(rig.threads.ready).rejects.toThrow('Thread 2 ended: Cannot find module');
  expect(reasonOf(rig.threads).message).toBe('Thread 2 ended: Cannot find module');
  await rig.threads.terminate();
  expect(rig.fakes.map(({ terminateCount }) => terminateCount)).toEqual([1, 1]);
});

test('one that is optional and ends before it is ready is no death; later it is', async () => {
  const rig = new Rig(2, true);
  const [first, second] = rig.fakes;
  first?.emit('error', new Error('Cannot find module'));
  second?.say({ type: 'ready', counterMemory: COUNTERS });
  await expect(rig.threads.ready).rejects.toThrow('Thread 1 ended: Cannot find module');
  expect(rig.threads.died.aborted).toBe(false);
  void rig.threads.serve(10, 1);
  expect(second?.descriptors).toEqual([10]);
  second?.emit('exit', 7);
  expect(reasonOf(rig.threads).message).toBe('Thread 2 ended: exit code 7');
});

test('threads that are not ready get no connection, and are neither waited for nor ended', async () => {
  const rig = new Rig(2);
  expect(rig.threads.leastConnectionCount).toBe(Number.POSITIVE_INFINITY);
  expect(() => rig.threads.serve(10, 1)).toThrow('Bug: ');
  rig.fakes[1]?.say({ type: 'ready', counterMemory: COUNTERS });
  expect(rig.threads.leastConnectionCount).toBe(0);
  void rig.threads.serve(10, 1);
  void rig.threads.serve(11, 2);
  expect(rig.fakes.map(({ descriptors }) => descriptors)).toEqual([[], [10, 11]]);
  expect(rig.threads.leastConnectionCount).toBe(2);
  const closed = rig.threads.close();
  rig.fakes[1]?.say({ type: 'closed', error: undefined });
  await closed;
  expect(rig.fakes.map(({ told }) => told.map(({ type }) => type))).toEqual([
    [],
    ['connection', 'connection', 'close'],
  ]);
  expect(rig.fakes.map(({ terminateCount }) => terminateCount)).toEqual([0, 1]);
  expect(rig.threads.died.aborted).toBe(false);
  // The process ends without it.
  expect(rig.threads.isRunning).toBe(true);
});

test('close waits until all threads have closed, then ends them; that is no death', async () => {
  const rig = new Rig(2);
  const threads = await rig.ready();
  void threads.serve(10, 1);
  let isClosed = false;
  const closed = threads.close().then(() => {
    isClosed = true;
  });
  rig.fakes[0]?.say({ type: 'closed', error: undefined });
  await nextTurn();
  expect(isClosed).toBe(false);
  expect(rig.fakes[0]?.terminateCount).toBe(0);
  rig.fakes[1]?.say({ type: 'closed', error: undefined });
  await closed;
  expect(rig.fakes.map(({ told }) => told.at(-1))).toEqual([{ type: 'close' }, { type: 'close' }]);
  expect(rig.fakes.map(({ terminateCount }) => terminateCount)).toEqual([1, 1]);
  expect(threads.died.aborted).toBe(false);
  expect(threads.isRunning).toBe(false);
});

test.each([
  [
    'could not end its requests',
    (fake: FakeThread) => fake.say({ type: 'closed', error: 'They do not end' }),
  ],
  ['died meanwhile', (fake: FakeThread) => fake.emit('error', new Error('They do not end'))],
])('close rejects when a thread %s', async (_why, fail) => {
  const rig = new Rig(2);
  const threads = await rig.ready();
  const closed = threads.close();
  const [first, second] = rig.fakes;
  if (first === undefined) throw new Error('There is no thread');
  fail(first);
  second?.say({ type: 'closed', error: undefined });
  await expect(closed).rejects.toThrow('They do not end');
  // To end them could take for ever; the process ends without.
  expect(rig.fakes.map(({ terminateCount }) => terminateCount)).toEqual([0, 0]);
  expect(threads.isRunning).toBe(true);
});
