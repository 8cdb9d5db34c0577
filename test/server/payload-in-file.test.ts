/** A payload that goes to a file as it comes in: what is written, by whom, and that nothing stays behind. */
import { readFileSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test, vi } from 'vitest';
import { CONNECTION_INFLIGHT_BYTES_MAX, PAYLOAD_BYTES_MAX } from '../../src/limits.ts';
import { ENOSPC } from '../../src/native/errno.ts';
import { BackendError } from '../../src/plugins/backend-error.ts';
import type { IncomingWrite } from '../../src/plugins/plugin.ts';
import { ClientSocket } from '../../src/server/client-socket.ts';
import { pattern } from '../protocol/bytes.ts';
import { CMD, request, write } from '../protocol/naive-client.ts';
import { Cleanup } from '../support/cleanup.ts';
import { eventually } from '../support/polling.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { type Client, ConnectionRig } from './client.ts';
import { type FakeHandle, FakePlugin, type Pace } from './fake-plugin.ts';

const KiB = 1024;
const LENGTH = 300 * KiB + 7;
const OFFSET = 12_345;
const FIRST_BYTES = 100 * KiB;
const FUA = 1;

/** Decides after each piece. */
type Wrote = IncomingWrite['wrote'];

/** Its handles let WRITEs go to a file; what they are asked otherwise is recorded. */
class ReceivingPlugin extends FakePlugin {
  readonly #fd: number;
  readonly #wrote: Wrote;

  constructor(fd: number, wrote: Wrote, pace: Pace) {
    super(pace);
    this.#fd = fd;
    this.#wrote = wrote;
  }

  override async open(): Promise<FakeHandle> {
    const handle = await super.open();
    const receiveWrite = (): IncomingWrite => ({ fd: this.#fd, mustBeInside: false, wrote: this.#wrote });
    return Object.assign(handle, { receiveWrite });
  }
}

interface Scene extends AsyncDisposable {
  readonly rig: ConnectionRig;
  readonly path: string;
}

async function scene(wrote: Wrote, pace: Pace = 'immediate'): Promise<Scene> {
  const cleanup = new Cleanup();
  const path = cleanup.use(await temporaryDirectory()).file('image');
  const { fd } = cleanup.use(await open(path, 'w+'));
  const rig = cleanup.use(await ConnectionRig.create(new ReceivingPlugin(fd, wrote, pace)));
  return { rig, path, [Symbol.asyncDispose]: () => cleanup[Symbol.asyncDispose]() };
}

/** Lets everything that is on its way through the event loop arrive. */
async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await nextTurn();
}

/** After a long payload the next one can go to the file: in two pieces, if the first is written to. */
async function sendTwo(client: Client, data: Uint8Array, flags = 0): Promise<void> {
  client.send(write(0, pattern(128 * KiB), 1n));
  expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
  client.send(write(OFFSET, data, 2n, flags));
}

/** Waits until the file has grown past the offset: a part of the payload is in it. */
async function sendBeginning(client: Client, path: string, data: Uint8Array): Promise<void> {
  client.send(write(0, pattern(128 * KiB), 1n));
  expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
  client.send(write(OFFSET, data, 2n).subarray(0, 28 + FIRST_BYTES));
  await eventually('the beginning is in the file', () =>
    readFileSync(path).length > OFFSET ? true : undefined,
  );
}

function expectInFile(path: string, data: Uint8Array): void {
  const found = readFileSync(path).subarray(OFFSET);
  expect(Buffer.compare(found, data)).toBe(0);
}

function expectNothingHeld(rig: ConnectionRig): void {
  expect(rig.budget.bytes).toBe(0);
  expect(rig.pool.outCount).toBe(0);
}

test('all of it is in the file, and neither a buffer nor a write is needed', async () => {
  const outcomes: number[] = [];
  await using here = await scene((outcome) => {
    outcomes.push(outcome);
    return true;
  });
  const { client } = await here.rig.open();
  const acquire = vi.spyOn(here.rig.pool, 'acquire');
  const data = pattern(LENGTH);
  client.send(write(0, pattern(128 * KiB), 1n));
  await client.takeSimpleReply();
  acquire.mockClear();
  client.send(write(OFFSET, data, 2n));
  expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
  expectInFile(here.path, data);
  expect(acquire).not.toHaveBeenCalledWith(LENGTH);
  expect(here.rig.plugin.handle.calls).toHaveLength(1);
  expect(outcomes.length).toBeGreaterThan(0);
  expect(outcomes.every((outcome) => outcome === 0)).toBe(true);
  expectNothingHeld(here.rig);
});

test('with FUA it is answered when a flush is done', async () => {
  await using here = await scene(() => true, 'controlled');
  const { client } = await here.rig.open();
  client.send(write(0, pattern(128 * KiB), 1n));
  const { handle } = here.rig.plugin;
  (await eventually('the first WRITE is there', () => handle.pending[0])).resolve();
  expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
  client.send(write(OFFSET, pattern(LENGTH), 2n, FUA));
  const flush = await eventually('it flushes', () => handle.pending[0]);
  expect(flush.operation).toBe('flush');
  let isAnswered = false;
  const reply = client.takeSimpleReply().finally(() => {
    isAnswered = true;
  });
  await settle();
  expect(isAnswered).toBe(false);
  flush.resolve();
  expect(await reply).toEqual({ errno: 0, cookie: 2n });
});

test('what is left after the last piece is written from a buffer, which is given back', async () => {
  await using here = await scene(() => false, 'controlled');
  const { client } = await here.rig.open();
  const { handle } = here.rig.plugin;
  const data = pattern(LENGTH);
  client.send(write(0, pattern(128 * KiB), 1n));
  (await eventually('the first WRITE is there', () => handle.pending[0])).resolve();
  expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
  const bytes = write(OFFSET, data, 2n, FUA);
  client.send(bytes.subarray(0, 28 + FIRST_BYTES));
  await eventually('the beginning is in the file', () =>
    readFileSync(here.path).length > OFFSET ? true : undefined,
  );
  client.send(bytes.subarray(28 + FIRST_BYTES));
  const rest = await eventually('the rest is with the handle', () => handle.pending[0]);
  const done = LENGTH - rest.length;
  expect(done).toBeGreaterThan(0);
  expect(rest).toMatchObject({ operation: 'write', offset: OFFSET + done, isFua: true });
  expect(Buffer.compare(rest.data ?? new Uint8Array(0), data.subarray(done))).toBe(0);
  expectInFile(here.path, data.subarray(0, done));
  expect(here.rig.pool.outCount).toBe(1);
  rest.resolve();
  expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
  expectNothingHeld(here.rig);
});

test('an error is answered when all has come, nothing more is written, and the next request is understood', async () => {
  await using here = await scene(() => {
    throw new BackendError(ENOSPC, 'pwrite', OFFSET, LENGTH);
  });
  const { client } = await here.rig.open();
  await sendTwo(client, pattern(LENGTH));
  client.send(request({ type: CMD.FLUSH, cookie: 3n }));
  expect(await client.takeSimpleReply()).toEqual({ errno: ENOSPC, cookie: 2n });
  expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 3n });
  expect(here.rig.plugin.handle.calls.map(({ operation }) => operation)).toEqual(['write', 'flush']);
  expectNothingHeld(here.rig);
});

test('a write of the rest that throws at once gives the buffer back, too', async () => {
  await using here = await scene(() => false);
  const { client } = await here.rig.open();
  const data = pattern(LENGTH);
  await sendBeginning(client, here.path, data);
  here.rig.plugin.handle.write = () => {
    throw new BackendError(ENOSPC, 'pwrite', OFFSET, LENGTH);
  };
  client.send(data.subarray(FIRST_BYTES));
  expect(await client.takeSimpleReply()).toEqual({ errno: ENOSPC, cookie: 2n });
  expectNothingHeld(here.rig);
});

test('where there is no pipe it goes through a buffer', async () => {
  const wrote = vi.fn(() => true);
  await using here = await scene(wrote);
  const { client } = await here.rig.open();
  const expectInFileSpy = vi.spyOn(ClientSocket.prototype, 'expectInFile').mockReturnValue(false);
  try {
    await sendTwo(client, pattern(LENGTH));
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
    expect(expectInFileSpy).toHaveBeenCalled();
  } finally {
    expectInFileSpy.mockRestore();
  }
  expect(wrote).not.toHaveBeenCalled();
  expect(here.rig.plugin.handle.calls.at(-1)).toMatchObject({ offset: OFFSET, length: LENGTH });
  expectNothingHeld(here.rig);
});

test('one that waits for room in the budget goes to the file afterwards', async () => {
  await using here = await scene(() => true, 'controlled');
  const { client } = await here.rig.open();
  const { handle } = here.rig.plugin;
  for (let offset = 0; offset < CONNECTION_INFLIGHT_BYTES_MAX; offset += PAYLOAD_BYTES_MAX) {
    client.send(request({ type: CMD.READ, offset, length: PAYLOAD_BYTES_MAX, cookie: 1n }));
  }
  await eventually('the budget is used up', () =>
    here.rig.budget.bytes === CONNECTION_INFLIGHT_BYTES_MAX ? true : undefined,
  );
  const data = pattern(LENGTH);
  const bytes = write(OFFSET, data, 2n);
  client.send(bytes.subarray(0, 28));
  await settle();
  client.send(bytes.subarray(28));
  // Failed ones have no data, which would take the client seconds.
  const reads = [...handle.pending];
  for (const read of reads) read.reject(new BackendError(ENOSPC, 'pread', read.offset, read.length));
  for (const _ of reads) expect(await client.takeSimpleReply()).toEqual({ errno: ENOSPC, cookie: 1n });
  expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
  expectInFile(here.path, data);
  expectNothingHeld(here.rig);
});

test.each<[string, Wrote]>([
  ['while it goes to the file', () => true],
  ['while the rest goes to a buffer', () => false],
  [
    'when it has failed',
    () => {
      throw new BackendError(ENOSPC, 'pwrite', OFFSET, LENGTH);
    },
  ],
])('a client that leaves in the middle, %s, leaves nothing behind', async (_when, wrote) => {
  await using here = await scene(wrote);
  const { client, connection } = await here.rig.open();
  await sendBeginning(client, here.path, pattern(LENGTH));
  client.socket.destroy();
  await connection.closed;
  expectNothingHeld(here.rig);
  expect(here.rig.plugin.handle).toMatchObject({ closeCount: 1, pendingAtClose: 0 });
});

test.each<[string, Wrote]>([
  ['while it goes to the file', () => true],
  ['while the rest goes to a buffer', () => false],
])('a shutdown in the middle, %s, ends the connection and leaves nothing behind', async (_when, wrote) => {
  await using here = await scene(wrote);
  const { client, connection } = await here.rig.open();
  const data = pattern(LENGTH);
  await sendBeginning(client, here.path, data);
  connection.shutDown();
  client.send(data.subarray(FIRST_BYTES));
  await connection.closed;
  expectNothingHeld(here.rig);
  expect(here.rig.plugin.handle.closeCount).toBe(1);
});
