/** How payloads come in: the header behind a long one alone, and all else in as few pieces as there are. */
import { expect, test, vi } from 'vitest';
import { Session } from '../../src/protocol/session.ts';
import { ClientSocket } from '../../src/server/client-socket.ts';
import { join, pattern } from '../protocol/bytes.ts';
import { CMD, request, write } from '../protocol/naive-client.ts';
import { eventually } from '../support/polling.ts';
import { ConnectionRig } from './client.ts';
import { FakePlugin, INFO } from './fake-plugin.ts';

const KiB = 1024;
const LONG = 128 * KiB;
const HEADER_BYTES = 28;
const EINVAL = 22;
const ENOSPC = 28;

/** The lengths of what a session receives, apart from expected payload, until the end of the scope. */
function receivedLengths(): { readonly lengths: number[] } & Disposable {
  const lengths: number[] = [];
  const original = Session.prototype.receive;
  const spy = vi.spyOn(Session.prototype, 'receive').mockImplementation(function (
    this: Session,
    bytes: Uint8Array,
    length: number,
  ) {
    lengths.push(length);
    original.call(this, bytes, length);
  });
  return { lengths, [Symbol.dispose]: () => spy.mockRestore() };
}

test('the header behind a long payload is received alone', async () => {
  await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
  const { client } = await rig.open();
  client.send(write(0, pattern(LONG), 1n));
  expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
  using received = receivedLengths();
  client.send(write(LONG, pattern(LONG), 2n));
  expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 2n });
  expect(received.lengths[0]).toBe(HEADER_BYTES);
});

test.each([
  ['a short payload', write(0, pattern(8 * KiB), 2n), 0],
  ['a refused payload', write(INFO.size, pattern(LONG), 2n), ENOSPC],
  ['a payload that is refused for its flags', write(0, pattern(LONG), 2n, 0x8000), EINVAL],
])('behind a long one, %s comes in few pieces', async (_what, bytes, errno) => {
  await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
  const { client } = await rig.open();
  client.send(write(0, pattern(LONG), 1n));
  expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
  using received = receivedLengths();
  client.send(bytes);
  expect(await client.takeSimpleReply()).toEqual({ errno, cookie: 2n });
  expect(received.lengths[0]).toBe(HEADER_BYTES);
  // One, mostly: the kernel is free to give it in a few.
  expect(received.lengths.length).toBeLessThan(10);
});

test('what a client sends behind its goodbye is read in large pieces', async () => {
  await using rig = await ConnectionRig.create(new FakePlugin('controlled'));
  const { client, connection } = await rig.open();
  const limit = vi.spyOn(ClientSocket.prototype, 'limit');
  try {
    client.send(join(write(0, pattern(LONG), 1n), request({ type: CMD.DISC })));
    const [call] = await eventually('the WRITE is with the handle', () =>
      rig.plugin.handle.pending.length > 0 ? [...rig.plugin.handle.pending] : undefined,
    );
    expect(limit).toHaveBeenCalledWith(HEADER_BYTES);
    call?.resolve();
    expect(await client.takeSimpleReply()).toEqual({ errno: 0, cookie: 1n });
    await client.ended;
    expect(limit).toHaveBeenLastCalledWith(0);
  } finally {
    limit.mockRestore();
  }
  client.socket.destroy();
  await connection.closed;
});

test('what a client sends while the server says goodbye is read in large pieces', async () => {
  await using rig = await ConnectionRig.create(new FakePlugin('immediate'));
  const { client, connection } = await rig.open();
  client.send(write(0, pattern(LONG), 1n));
  await client.takeSimpleReply();
  const limit = vi.spyOn(ClientSocket.prototype, 'limit');
  try {
    connection.shutDown();
    expect(limit).toHaveBeenLastCalledWith(0);
  } finally {
    limit.mockRestore();
  }
});
