/** Payloads received into, and READs sent from, the memory in which an export lies; and that all of it is given back. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { withContract } from '../../src/plugins/contract.ts';
import { MemoryPlugin } from '../../src/plugins/memory/memory-plugin.ts';
import type { Handle, LentMemory } from '../../src/plugins/plugin.ts';
import { join, pattern } from '../protocol/bytes.ts';
import { CMD, request, write } from '../protocol/naive-client.ts';
import { eventually } from '../support/polling.ts';
import { type Client, ConnectionRig } from './client.ts';
import { type FakeHandle, FakePlugin } from './fake-plugin.ts';

const KiB = 1024;
const MiB = 1024 * KiB;
const PAGE = 64 * KiB;
const OFFSET = 12_345;
const FUA = 1;
const HEADER_BYTES = 28;

/** Lends the memory of a RAM disk, as often as the test lets it; all other calls are a FakeHandle's. */
class LendingPlugin extends FakePlugin {
  readonly disk = MemoryPlugin.create({ size: 1024 * MiB, limit: 256 * MiB, isReadOnly: false });
  /** The contract sees to it that each is given back, once, before the handle is closed. */
  readonly inner: Handle = new MemoryDisk(this.disk).handle;
  lendCount = 0;
  lendCountMax = Number.POSITIVE_INFINITY;
  lent = 0;

  override async open(): Promise<FakeHandle> {
    const handle = await super.open();
    const lend = (offset: number, length: number, purpose: 'read' | 'write'): LentMemory | undefined => {
      if (this.lendCount >= this.lendCountMax) return undefined;
      this.lendCount += 1;
      const memory = this.inner.lend?.(offset, length, purpose);
      if (memory === undefined) return undefined;
      this.lent += 1;
      return {
        ...memory,
        giveBack: () => {
          this.lent -= 1;
          memory.giveBack();
        },
      };
    };
    return Object.assign(handle, { lend });
  }

  async bytes(offset: number, length: number): Promise<Buffer> {
    const buffer = Buffer.alloc(length, 0xaa);
    await this.inner.read(buffer, 0, length, offset);
    return buffer;
  }
}

class MemoryDisk {
  readonly handle: Handle;

  constructor(plugin: MemoryPlugin) {
    const handle = plugin.open();
    if (handle instanceof Promise) throw new Error('a RAM disk is open at once');
    this.handle = handle;
  }
}

interface Scene extends AsyncDisposable {
  readonly rig: ConnectionRig;
  readonly plugin: LendingPlugin;
  readonly client: Client;
}

/** After a long payload the next one can go where it belongs: nothing of it comes with its header. */
async function scene(): Promise<Scene> {
  const plugin = new LendingPlugin('immediate');
  const rig = await ConnectionRig.create(plugin);
  const { client } = await rig.open();
  plugin.lendCountMax = 0;
  client.send(write(0, pattern(128 * KiB), 1n));
  expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
  plugin.lendCountMax = Number.POSITIVE_INFINITY;
  plugin.handle.calls.length = 0;
  return { rig, plugin, client, [Symbol.asyncDispose]: () => rig[Symbol.asyncDispose]() };
}

function expectNothingHeld({ rig, plugin }: Scene): void {
  expect(plugin.lent).toBe(0);
  expect(rig.budget.bytes).toBe(0);
  expect(rig.pool.outCount).toBe(0);
}

async function settle(): Promise<void> {
  for (let turn = 0; turn < 20; turn += 1) await nextTurn();
}

test.each([
  ['300 KiB', 300 * KiB + 7],
  ['5 MiB, by 1 MiB', 5 * MiB + 3],
])('a payload of %s is received where it belongs', async (_what, length) => {
  await using it = await scene();
  const data = pattern(length);
  it.client.send(write(OFFSET, data, 2n));
  expect(await it.client.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
  expect((await it.plugin.bytes(OFFSET, length)).equals(data)).toBe(true);
  expect(it.plugin.lendCount).toBe(Math.ceil(length / MiB));
  expect(it.plugin.handle.calls).toEqual([]);
  expectNothingHeld(it);
});

test('a short payload goes through a buffer, also when its header comes alone', async () => {
  await using it = await scene();
  it.client.send(write(OFFSET, pattern(64 * KiB), 2n).subarray(0, HEADER_BYTES));
  await eventually('the header is there', () => (it.rig.budget.bytes > 0 ? true : undefined));
  it.client.send(pattern(64 * KiB));
  expect(await it.client.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
  expect(it.plugin.lendCount).toBe(0);
  expectNothingHeld(it);
});

test('with FUA it is followed by a flush', async () => {
  await using it = await scene();
  it.client.send(write(OFFSET, pattern(200 * KiB), 2n, FUA));
  expect(await it.client.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
  expect(it.plugin.handle.calls.map(({ operation }) => operation)).toEqual(['flush']);
});

test('what is not lent goes through a buffer: all of it, or the rest', async () => {
  await using it = await scene();
  const data = pattern(3 * MiB);
  it.plugin.lendCountMax = 2;
  it.client.send(write(OFFSET, data, 2n));
  expect(await it.client.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
  const rest = { operation: 'write', offset: OFFSET + 2 * MiB, length: MiB };
  expect(it.plugin.handle.calls).toEqual([expect.objectContaining(rest)]);
  expect((await it.plugin.bytes(OFFSET, 2 * MiB)).equals(data.subarray(0, 2 * MiB))).toBe(true);
  expectNothingHeld(it);
  it.client.send(write(OFFSET, data, 3n));
  expect(await it.client.takeSimpleReply()).toEqual({ errno: 0, cookie: 3n });
  expect(it.plugin.handle.calls[1]).toEqual(expect.objectContaining({ offset: OFFSET, length: 3 * MiB }));
  expectNothingHeld(it);
});

test('a client that leaves in the middle gives the pages back', async () => {
  await using it = await scene();
  const data = pattern(600 * KiB);
  const { client, connection } = await it.rig.open();
  client.send(write(0, pattern(128 * KiB), 1n));
  await client.takeSimpleReply();
  client.send(write(OFFSET, data, 2n).subarray(0, HEADER_BYTES + 100 * KiB));
  await eventually('the beginning is there', async () =>
    (await it.plugin.bytes(OFFSET + 100 * KiB - 1, 1))[0] === data[100 * KiB - 1] ? true : undefined,
  );
  expect(it.plugin.lent).toBe(1);
  client.socket.destroy();
  await connection.closed;
  expectNothingHeld(it);
  expect((await it.plugin.bytes(OFFSET, 100 * KiB)).equals(data.subarray(0, 100 * KiB))).toBe(true);
});

test('a server that shuts down in the middle of a payload gives the pages back', async () => {
  await using it = await scene();
  const { client, connection } = await it.rig.open();
  client.send(write(0, pattern(128 * KiB), 1n));
  await client.takeSimpleReply();
  client.send(write(OFFSET, pattern(600 * KiB), 2n).subarray(0, HEADER_BYTES + 100 * KiB));
  await eventually('memory is lent', () => (it.plugin.lent === 1 ? true : undefined));
  connection.shutDown();
  await client.ended;
  client.socket.destroy();
  await connection.closed;
  expectNothingHeld(it);
});

test('READs of more than 64 KiB are sent from where they are, behind what was answered before', async () => {
  await using it = await scene();
  const data = pattern(700 * KiB);
  await it.plugin.inner.write(data, 0, data.length, OFFSET, false);
  it.client.send(
    join(
      request({ type: CMD.FLUSH, cookie: 5n }),
      request({ type: CMD.READ, offset: BigInt(OFFSET), length: 200 * KiB, cookie: 6n }),
      request({ type: CMD.READ, offset: BigInt(OFFSET), length: 700 * KiB, cookie: 7n }),
      request({ type: CMD.FLUSH, cookie: 8n }),
    ),
  );
  expect(await it.client.takeSimpleReply()).toEqual({ errno: 0, cookie: 5n });
  expect(await it.client.takeSimpleReply()).toEqual({ errno: 0, cookie: 6n });
  expect(Buffer.compare(await it.client.take(200 * KiB), data.subarray(0, 200 * KiB))).toBe(0);
  expect(await it.client.takeSimpleReply()).toEqual({ errno: 0, cookie: 7n });
  expect(Buffer.compare(await it.client.take(700 * KiB), data)).toBe(0);
  expect(await it.client.takeSimpleReply()).toEqual({ errno: 0, cookie: 8n });
  expect(it.plugin.lendCount).toBe(2);
  expectNothingHeld(it);
});

test('a READ of 64 KiB goes with the other replies', async () => {
  await using it = await scene();
  it.client.send(request({ type: CMD.READ, offset: 0n, length: PAGE, cookie: 5n }));
  await it.client.takeSimpleReply();
  await it.client.take(PAGE);
  expect(it.plugin.lendCount).toBe(0);
});

test('of a client that reads slowly the pages stay lent; what is written meanwhile may show, whole or in part', async () => {
  await using it = await scene();
  const length = 8 * MiB;
  await it.plugin.inner.write(Buffer.alloc(length, 'a'), 0, length, 0, false);
  const { client, connection } = await it.rig.open();
  client.socket.pause();
  client.send(request({ type: CMD.READ, offset: 0n, length, cookie: 5n }));
  await eventually('memory is lent', () => (it.plugin.lent === 1 ? true : undefined));
  await settle();
  expect(it.plugin.lent).toBe(1);
  await it.plugin.inner.write(Buffer.alloc(PAGE, 'b'), 0, PAGE, length - PAGE, false);
  await it.plugin.inner.trim(length - 3 * PAGE, PAGE, false);
  client.socket.resume();
  await client.takeSimpleReply();
  const bytes = Buffer.from(await client.take(length));
  expect(bytes.subarray(0, length - 3 * PAGE).every((byte) => byte === 'a'.charCodeAt(0))).toBe(true);
  expect(bytes.subarray(length - PAGE).every((byte) => byte === 'b'.charCodeAt(0))).toBe(true);
  await eventually('it is given back', () => (it.plugin.lent === 0 ? true : undefined));
  client.socket.destroy();
  await connection.closed;
  expectNothingHeld(it);
});

test('a client that leaves without reading gives the pages back', async () => {
  await using it = await scene();
  const { client, connection } = await it.rig.open();
  client.socket.pause();
  for (let cookie = 1n; cookie <= 3n; cookie += 1n) {
    client.send(request({ type: CMD.READ, offset: 0n, length: 8 * MiB, cookie }));
  }
  await eventually('memory is lent', () => (it.plugin.lent === 3 ? true : undefined));
  client.socket.destroy();
  await connection.closed;
  expectNothingHeld(it);
});

test('the contract: what is lent is inside what was asked for, and given back once before the handle is closed', async () => {
  const plugin = MemoryPlugin.create({ size: MiB, limit: 4 * MiB, isReadOnly: false });
  const handle = await withContract(plugin).open();
  expect(() => handle.lend?.(MiB - 1, 2, 'read')).toThrow('outside the export');
  const lent = handle.lend?.(0, 100, 'write');
  expect(lent?.length).toBe(100);
  expect(() => handle.close()).toThrow('1 calls in flight');
  lent?.giveBack();
  expect(() => lent?.giveBack()).toThrow('given back twice');
  const readOnly = withContract(MemoryPlugin.create({ size: MiB, limit: MiB, isReadOnly: true }));
  const readOnlyHandle = await readOnly.open();
  expect(() => readOnlyHandle.lend?.(0, 100, 'write')).toThrow('does not offer it');
});
