import { describe, expect, test } from 'vitest';
import { attempt } from '../support/command.ts';
import { expectDescriptorCount, expectGoodService, idleDescriptorCount } from '../support/health.ts';
import { createImage, noise, readRange } from '../support/image.ts';
import { eventually } from '../support/polling.ts';
import { PYTHON } from '../support/python.ts';
import { randomNumbers } from '../support/random.ts';
import {
  CLIENT_FLAGS,
  COMMAND,
  encodeGo,
  encodeOption,
  encodeRequest,
  encodeSetMetaContext,
  OPTION,
  RawClient,
} from '../support/raw-client.ts';
import { CACHE_MODES, startServer } from '../support/server.ts';
import { GiB, MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const WRITTEN_AT = 4096;
const WRITTEN = noise(512, 1);

/** A whole session, as one client would send it. */
const BEFORE_PAYLOAD = Buffer.concat([
  CLIENT_FLAGS,
  encodeOption(OPTION.list),
  encodeOption(OPTION.structuredReply),
  encodeSetMetaContext('', 'base:allocation'),
  encodeGo(''),
  encodeRequest({ type: COMMAND.read, cookie: 1n, offset: 0, length: 65_536 }),
  encodeRequest({ type: COMMAND.write, cookie: 2n, offset: WRITTEN_AT, length: WRITTEN.length }),
]);
const SESSION = Buffer.concat([
  BEFORE_PAYLOAD,
  WRITTEN,
  encodeRequest({ type: COMMAND.flush, cookie: 3n }),
  encodeRequest({ type: COMMAND.blockStatus, cookie: 4n, offset: 0, length: MiB }),
  encodeRequest({ type: COMMAND.writeZeroes, cookie: 5n, offset: 2 * MiB, length: 65_536 }),
  encodeRequest({ type: COMMAND.trim, cookie: 6n, offset: 3 * MiB, length: 65_536 }),
  encodeRequest({ type: COMMAND.disconnect, cookie: 7n }),
]);
const PAYLOAD_COMPLETE = BEFORE_PAYLOAD.length + WRITTEN.length;

describe.each(CACHE_MODES)('with --cache %s', (cache) => {
  test.each([
    ['vanishes', false],
    ['closes its half of the connection', true],
  ])('a client that %s at any byte of a session leaves nothing behind', async (_how, politely) => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, 16 * MiB);
    await using server = await startServer(['file', image, '--cache', cache, '--threads', '2']);
    const count = await idleDescriptorCount(server);

    const leaveAfter = async (length: number): Promise<void> => {
      await using client = await RawClient.connect(server);
      await client.send(SESSION.subarray(0, length));
      if (!politely) return;
      client.halfClose();
      client.socket.resume();
      await client.closed;
    };

    for (let length = 0; length < PAYLOAD_COMPLETE; length++) await leaveAfter(length);
    await expectDescriptorCount(server, count);
    const found = await readRange(image, { offset: WRITTEN_AT, length: WRITTEN.length });
    expect(found.equals(Buffer.alloc(WRITTEN.length)), 'half a write changes nothing').toBe(true);

    for (let length = PAYLOAD_COMPLETE; length <= SESSION.length; length++) await leaveAfter(length);
    await expectDescriptorCount(server, count);
    await expectGoodService(server);
  });

  test('clients that vanish with requests in flight leave nothing behind', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, 64 * MiB, [{ offset: 0, length: 32 * MiB }]);
    await using server = await startServer(['file', image, '--cache', cache, '--threads', '2']);
    const count = await idleDescriptorCount(server);
    const random = randomNumbers(20);

    for (let round = 0; round < 60; round++) {
      await using client = await RawClient.connect(server);
      await client.handshake();
      const requests = Array.from({ length: 1 + random(24) }, (_, index) => {
        const offset = random(60) * MiB + random(512);
        const cookie = BigInt(index);
        switch (random(5)) {
          case 0:
            return encodeRequest({
              type: COMMAND.write,
              cookie,
              offset,
              data: noise(1 + random(2 * MiB), 1),
            });
          case 1:
            return encodeRequest({ type: COMMAND.writeZeroes, cookie, offset, length: random(MiB) });
          case 2:
            return encodeRequest({ type: COMMAND.flush, cookie });
          default:
            return encodeRequest({ type: COMMAND.read, cookie, offset, length: 1 + random(2 * MiB) });
        }
      });
      const bytes = Buffer.concat(requests);
      const length = 1 + random(bytes.length);
      // Not awaited: the server may stop reading until somebody takes its replies, which nobody will.
      void client.send(bytes.subarray(0, length));
      // Only a whole request is answered.
      if (length >= (requests[0]?.length ?? 0) && random(2) === 0) await client.receive(16);
    }
    await expectDescriptorCount(server, count);
    await expectGoodService(server);
  });
});

test.each<[string, (uri: string) => [string, ...string[]]]>([
  [
    'reads',
    (uri) => ['nbdcopy', '--allocated', '--no-extents', '--connections=4', '--threads=4', uri, 'null:'],
  ],
  [
    'writes',
    (uri) => [
      PYTHON,
      '-c',
      `
import sys, nbd
handles = [nbd.NBD() for _ in range(4)]
for h in handles:
    h.connect_uri(sys.argv[1])
block = nbd.Buffer.from_bytearray(bytearray(b'k' * (1 << 20)))
i = 0
while True:
    for h in handles:
        while h.aio_in_flight() < 16:
            h.aio_pwrite(block, (i % 64) << 20)
            i += 1
        h.poll(-1)
        while h.aio_peek_command_completed() > 0:
            h.aio_command_completed(h.aio_peek_command_completed())
`,
      uri,
    ],
  ],
])('a client killed while it %s over 4 connections leaves nothing behind', async (_what, command) => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await createImage(image, 16 * GiB);
  await using server = await startServer(['file', image, '--cache', 'none']);
  const count = await idleDescriptorCount(server);
  for (let round = 0; round < 3; round++) {
    let kill: () => unknown = () => undefined;
    const end = attempt(command(server.uri), {
      started: (child) => {
        kill = () => child.kill('SIGKILL');
      },
    });
    const outcome = end.then(() => 'it ended by itself', String);
    try {
      await eventually('all its connections are open', async () =>
        (await server.descriptorCount()) >= count + 4 ? true : undefined,
      );
    } finally {
      kill();
    }
    expect(await outcome).toContain('SIGKILL');
    await expectDescriptorCount(server, count);
  }
  await expectGoodService(server);
});
