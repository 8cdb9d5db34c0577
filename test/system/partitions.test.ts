/** Partitions as the tools of Linux make them, and as its kernel and clients see them. */
import { open } from 'node:fs/promises';
import { describe, expect, test } from 'vitest';
import { Cleanup } from '../support/cleanup.ts';
import { privileged, run } from '../support/command.ts';
import { createFullImage } from '../support/image.ts';
import { expectRefusal, startServer } from '../support/server.ts';
import { attachLoop, MiB, mountDevice } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

interface Listed {
  readonly node: string;
  readonly start: number;
  readonly size: number;
  readonly type: string;
}

/** What sfdisk says of an image, in bytes; the extended partition is only a container. */
async function listed(target: string): Promise<{ number: number; offset: number; length: number }[]> {
  const output = await run(privileged('sfdisk', '--json', target));
  const { partitiontable } = JSON.parse(output) as {
    partitiontable: { sectorsize: number; partitions: Listed[] };
  };
  const { sectorsize, partitions } = partitiontable;
  return partitions
    .filter(({ type }) => type !== '5' && type !== 'f')
    .map(({ node, start, size }) => ({
      number: Number(/(\d+)$/.exec(node)?.[1]),
      offset: start * sectorsize,
      length: size * sectorsize,
    }));
}

const MBR = `label: dos
size=3M, type=83
size=1M, type=82, bootable
type=5
size=2M, type=83
size=1000K, type=83
size=63, type=c
`;

/** Partitions an image of noise, and returns what is listed then. */
async function partitionWith(
  kind: string,
  image: string,
): Promise<{ number: number; offset: number; length: number }[]> {
  await createFullImage(image, 32 * MiB);
  if (kind === 'sfdisk, MBR') {
    await run(['sfdisk', '--quiet', '--wipe', 'always', image], { input: MBR });
    return listed(image);
  }
  if (kind === 'sgdisk, GPT') {
    const parts = ['-n1:0:+5M', '-n2:0:+1M', '-n7:40960:0'];
    await run(['sgdisk', '--clear', ...parts, image]);
    return listed(image);
  }
  await using device = await attachLoop(image, '--sector-size', '4096');
  const parts = ['--set-alignment=1', '-n1:256:1279', '-n3:2001:8000'];
  await run(privileged('sgdisk', '--clear', ...parts, device.path));
  return [
    { number: 1, offset: 256 * 4096, length: 1024 * 4096 },
    { number: 3, offset: 2001 * 4096, length: 6000 * 4096 },
  ];
}

/** A server for every one would take long. */
const SERVED: readonly number[] = [3, 5, 6, 7];

describe.each(['sfdisk, MBR', 'sgdisk, GPT', 'sgdisk, GPT with sectors of 4096 bytes'])('%s', (kind) => {
  test('partitions are served, byte for byte', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    const partitions = await partitionWith(kind, image);
    expect(partitions.map(({ number }) => number)).toEqual(
      kind === 'sfdisk, MBR' ? [1, 2, 5, 6, 7] : kind === 'sgdisk, GPT' ? [1, 2, 7] : [1, 3],
    );
    for (const { number, offset, length } of partitions.filter(({ number }) => SERVED.includes(number))) {
      await using server = await startServer(['file', image, '-r', '--filter', `partition:${number}`]);
      const copy = directory.file(`partition-${number}`);
      await run(['nbdcopy', server.uri, copy]);
      expect(Number(await run(['stat', '--format=%s', copy]))).toBe(length);
      await run(['cmp', `--ignore-initial=${offset}:0`, `--bytes=${length}`, image, copy]);
    }
  });
});

test('a partition that is not there is refused with a list of those that are', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  await partitionWith('sfdisk, MBR', image);
  const message = await expectRefusal(['file', image, '--filter', 'partition:4', '-U', directory.file('s')]);
  expect(message).toMatch(
    /there is no partition 4; there are 1 \(3M\), 2 \(1M\), 5 \(2M\), 6 \(1024512\), 7 \(32256\)$/,
  );
});

test('a GPT whose first sectors were overwritten is found by its copy', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('disk.img');
  const partitions = await partitionWith('sgdisk, GPT', image);
  await using file = await open(image, 'r+');
  await file.write(Buffer.alloc(4096, 0xff), 0, 4096, 512);
  await using server = await startServer(['file', image, '-r', '--filter', 'partition:7']);
  expect(Number(await run(['nbdinfo', '--size', server.uri]))).toBe(partitions.at(-1)?.length);
  await server.stop();
  expect(server.log.filter(({ level }) => level === 40).map(({ msg }) => msg)).toEqual([
    'The GPT is damaged; its copy at the end of the disk is used',
  ]);
});

test('a file system that a client makes on a partition is what the kernel mounts there', async () => {
  await using cleanup = new Cleanup();
  const directory = cleanup.use(await temporaryDirectory());
  const image = directory.file('disk.img');
  const fifth = (await partitionWith('sfdisk, MBR', image)).find(({ number }) => number === 5);
  const before = await run(['sha256sum', image]);
  {
    await using server = await startServer(['file', image, '--filter', 'partition:5']);
    await run(['mkdir', directory.file('files')]);
    await run([
      'dd',
      `if=${image}`,
      `of=${directory.file('files/noise')}`,
      'bs=300K',
      'count=1',
      'status=none',
    ]);
    const made = directory.file('ext4.img');
    await run(['truncate', '--size', String(fifth?.length), made]);
    await run(['mkfs.ext4', '-q', '-d', directory.file('files'), made]);
    await run(['nbdcopy', '--flush', made, server.uri]);
  }
  expect(await run(['sha256sum', image])).not.toBe(before);
  const device = cleanup.use(
    await attachLoop(image, '--offset', String(fifth?.offset), '--sizelimit', String(fifth?.length)),
  );
  await run(privileged('e2fsck', '-fn', device.path));
  const mount = cleanup.use(await mountDevice(device.path, directory.file('mount')));
  await run(['cmp', `${mount.path}/noise`, directory.file('files/noise')]);
});
