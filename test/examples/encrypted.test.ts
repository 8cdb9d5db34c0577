/** The encrypted device on one in memory, in this process. */
import { createDecipheriv } from 'node:crypto';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { encrypt } from '../../examples/encrypted.ts';
import { defineExport, serve } from '../../src/index.ts';
import { run } from '../support/command.ts';
import { noise } from '../support/image.ts';
import { python } from '../support/python.ts';
import { MiB } from '../support/storage.ts';

const KEY = noise(64, 1);
const SECTOR_BYTES = 4096;

/** RAM that takes its time, longer for what comes first, so that requests overtake each other. */
function slowDisk(size = MiB) {
  const disk = new Uint8Array(size);
  let count = 0;
  const wait = (): Promise<void> => delay(3 - (count++ % 4));
  return {
    disk,
    definition: defineExport({
      size,
      async read(offset, length) {
        await wait();
        return disk.slice(offset, offset + length);
      },
      async write(offset, data) {
        await wait();
        disk.set(data, offset);
      },
    }),
  };
}

test('encrypts sector by sector with AES-256-XTS, the sector number as the tweak', async () => {
  const { disk, definition } = slowDisk();
  await using server = await serve(encrypt(definition, KEY));
  await python(server.uri, 'h = connect()\nh.pwrite(b"secret" * 2048, 8192)');
  const tweak = Buffer.alloc(16);
  tweak.writeUInt32LE(3);
  const sector = disk.subarray(3 * SECTOR_BYTES, 4 * SECTOR_BYTES);
  const plain = createDecipheriv('aes-256-xts', KEY, tweak).update(sector);
  expect(plain.toString()).toBe('secret'.repeat(2048).slice(SECTOR_BYTES, 2 * SECTOR_BYTES));
  expect(Buffer.from(disk).includes('secret')).toBe(false);
});

test('takes writes anywhere, as qemu-io sees it', async () => {
  await using server = await serve(encrypt(slowDisk().definition, KEY));
  const commands = [
    'write -P 0x11 0 1M',
    'write -P 0x22 4095 2',
    'write -P 0x33 8192 4096',
    'write -z 12000 9000',
    'read -P 0x11 0 4095',
    'read -P 0x22 4095 2',
    'read -P 0x11 4097 4095',
    'read -P 0x33 8192 3808',
    'read -P 0 12000 9000',
    'read -P 0x11 21000 1027576',
  ];
  const output = await run([
    'qemu-io',
    '-f',
    'raw',
    ...commands.flatMap((command) => ['-c', command]),
    server.uri,
  ]);
  expect(output).not.toContain('failed');
});

test('many writes at a time in one sector lose nothing, and what lies between them stays readable', async () => {
  await using server = await serve(encrypt(slowDisk().definition, KEY));
  await python(
    server.uri,
    `
import random
random.seed(5)
h = connect()
model = bytearray(h.pread(65536, 0))
for turn in range(10):
    cookies, quiet = [], []
    for piece in range(64):
        # 1 to 1000 bytes in each KiB, so that four meet in every sector; its last 24 bytes are only read.
        start = piece * 1024 + random.randrange(1000)
        data = random.randbytes(random.randint(1, piece * 1024 + 1000 - start))
        model[start:start + len(data)] = data
        cookies.append(h.aio_pwrite(nbd.Buffer.from_bytearray(bytearray(data)), start))
        between = nbd.Buffer(24)
        quiet.append((piece * 1024 + 1000, between))
        cookies.append(h.aio_pread(between, piece * 1024 + 1000))
    finish(h, cookies)
    for start, between in quiet:
        assert between.to_bytearray() == model[start:start + 24], (turn, start)
    assert h.pread(65536, 0) == model, turn`,
  );
});

test('says what is wrong with its key and with what it is to encrypt', () => {
  const { definition } = slowDisk();
  expect(() => encrypt(definition, KEY.subarray(1))).toThrow('The key has 64 bytes, not 63');
  expect(() => encrypt({ ...definition, size: 5000 }, KEY)).toThrow(
    'a multiple of 4096 bytes long, not 5000',
  );
  expect(() => encrypt({ ...definition, blockSize: { minimum: 8192 } }, KEY)).toThrow(
    'reads and writes of 4096',
  );
});

test('is read-only when what it encrypts is', async () => {
  const { size, read } = slowDisk().definition;
  await using server = await serve(encrypt({ size, read }, KEY));
  await python(server.uri, 'assert connect().is_read_only()');
});
