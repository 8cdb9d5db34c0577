/** `--busy-poll`: a server that has served and has nothing to do uses no processor. */
import { readFile } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { createImage } from '../support/image.ts';
import { COMMAND, encodeRequest, RawClient } from '../support/raw-client.ts';
import { type NbdServer, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

const IDLE_MS = 1000;

/** Hundredths of a second of processor time, all threads (proc_pid_stat(5), utime and stime). */
async function processorTicks({ pid }: NbdServer): Promise<number> {
  const stat = await readFile(`/proc/${pid}/stat`, 'utf8');
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return Number(fields[11]) + Number(fields[12]);
}

test.each(['0', '50', '10000'])('of %s microseconds: idle connections cost nothing', async (microseconds) => {
  await using directory = await temporaryDirectory();
  const image = directory.file('image');
  await createImage(image, MiB);
  await using server = await startServer(['file', image, '--busy-poll', microseconds]);
  await using client = await RawClient.connect(server);
  await client.handshake();
  await client.send(encodeRequest({ type: COMMAND.read, cookie: 1n, offset: 0, length: 4096 }));
  expect(await client.receiveReply(4096)).toMatchObject({ cookie: 1n });
  await using _silent = await RawClient.connect(server);
  await delay(500);
  const before = await processorTicks(server);
  await delay(IDLE_MS);
  // A loop that polls takes all of a processor: 100 of them, or what others leave of it.
  expect((await processorTicks(server)) - before).toBeLessThan(10);
});
