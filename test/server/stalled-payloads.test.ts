/** Clients that announce large WRITEs and go silent must not hold the byte budget for good. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { afterEach, beforeEach, expect, test, vi } from 'vitest';
import {
  PAYLOAD_BYTES_MAX,
  PAYLOAD_PROGRESS_BYTES_MIN,
  PAYLOAD_STALL_SECONDS_MAX,
  PROCESS_INFLIGHT_BYTES_MAX,
} from '../../src/limits.ts';
import { CMD, request, write } from '../protocol/naive-client.ts';
import { eventually } from '../support/polling.ts';
import { type Client, ConnectionRig } from './client.ts';
import { FakePlugin } from './fake-plugin.ts';

const CLAIM_COUNT = PROCESS_INFLIGHT_BYTES_MAX / PAYLOAD_BYTES_MAX;
const LARGE = 1024 * 1024;
const OK = { errno: 0, cookie: 9n };

beforeEach(() => {
  // Only the deadlines: sockets and polling go on in real time.
  vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
});

afterEach(() => {
  vi.useRealTimers();
});

/** A WRITE of the largest size without its payload. */
function claim(): Uint8Array {
  return request({ type: CMD.WRITE, length: PAYLOAD_BYTES_MAX });
}

async function claimAll(rig: ConnectionRig): Promise<Client[]> {
  const clients: Client[] = [];
  for (let count = 0; count < CLAIM_COUNT; count += 1) {
    const { client } = await rig.open();
    client.send(claim());
    clients.push(client);
  }
  await eventually('the budget is used up', () =>
    rig.budget.bytes === PROCESS_INFLIGHT_BYTES_MAX ? true : undefined,
  );
  return clients;
}

/** Lets a deadline pass, and all that follows from it happen. */
async function passDeadline(): Promise<void> {
  await vi.advanceTimersByTimeAsync(PAYLOAD_STALL_SECONDS_MAX * 1000);
  for (let turn = 0; turn < 20; turn += 1) await nextTurn();
}

function stallWarnings(rig: ConnectionRig): number {
  return rig.log.at('warn').filter(({ message }) => message.includes('payload')).length;
}

test('those that others wait for are cut, and the others are served', async () => {
  await using rig = await ConnectionRig.create(new FakePlugin('immediate'), 1_000_000);
  const silent = await claimAll(rig);
  const { client: waiting } = await rig.open();
  waiting.send(write(0, new Uint8Array(LARGE), OK.cookie));
  await passDeadline();
  await passDeadline();
  expect(await waiting.takeSimpleReply()).toEqual(OK);
  for (const client of silent) await client.ended;
  expect(stallWarnings(rig)).toBe(CLAIM_COUNT);
  await eventually('all is given back', () => (rig.budget.bytes === 0 ? true : undefined));
});

test('nobody is cut while nobody waits, however slow', async () => {
  await using rig = await ConnectionRig.create(new FakePlugin('immediate'), 1_000_000);
  await claimAll(rig);
  for (let round = 0; round < 5; round += 1) await passDeadline();
  expect(stallWarnings(rig)).toBe(0);
  expect(rig.budget.bytes).toBe(PROCESS_INFLIGHT_BYTES_MAX);
});

test('a client that sends on, slowly, stays', async () => {
  await using rig = await ConnectionRig.create(new FakePlugin('immediate'), 1_000_000);
  const [slow, ...silent] = await claimAll(rig);
  const { client: waiting } = await rig.open();
  waiting.send(request({ type: CMD.READ, length: LARGE, cookie: OK.cookie }));
  const piece = new Uint8Array(PAYLOAD_PROGRESS_BYTES_MIN);
  for (let round = 0; round < 4; round += 1) {
    slow?.send(piece);
    // Real time for the socket, none for the deadline.
    for (let turn = 0; turn < 200; turn += 1) await nextTurn();
    await passDeadline();
  }
  for (const client of silent) await client.ended;
  expect(stallWarnings(rig)).toBe(CLAIM_COUNT - 1);
  expect(rig.budget.bytes).toBe(PAYLOAD_BYTES_MAX);
});
