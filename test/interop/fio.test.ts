import { describe, expect, test } from 'vitest';
import { run } from '../support/command.ts';
import { createImage } from '../support/image.ts';
import { CACHE_MODES, startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

interface FioReport {
  readonly jobs: readonly {
    readonly error: number;
    readonly read: { readonly total_ios: number };
    readonly write: { readonly total_ios: number };
  }[];
}

const JOBS = 4;
const JOB_SIZE = 48 * MiB;

/** Every job has a connection and a part of the export of its own, and verifies what it wrote. */
async function fio(uri: string, directory: string, ...options: readonly string[]): Promise<FioReport> {
  const output = await run([
    'fio',
    '--output-format=json',
    '--name=job',
    '--ioengine=nbd',
    `--uri=${uri}`,
    '--iodepth=32',
    `--numjobs=${JOBS}`,
    `--size=${JOB_SIZE}`,
    `--offset_increment=${JOB_SIZE}`,
    '--verify=crc32c',
    '--do_verify=1',
    '--verify_fatal=1',
    '--verify_dump=0',
    '--randseed=42',
    // Where fio keeps the state of its jobs.
    `--aux-path=${directory}`,
    ...options,
  ]);
  return JSON.parse(output.slice(output.indexOf('{'))) as FioReport;
}

function expectWork(report: FioReport): void {
  expect(report.jobs).toHaveLength(JOBS);
  for (const job of report.jobs) {
    expect(job.error).toBe(0);
    expect(job.read.total_ios).toBeGreaterThan(0);
    expect(job.write.total_ios).toBeGreaterThan(0);
  }
}

describe.each(CACHE_MODES)('with --cache %s', (cache) => {
  test('fio verifies mixed random reads and writes of many sizes over several connections', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, JOBS * JOB_SIZE);
    await using server = await startServer(['file', image, '--cache', cache]);
    expectWork(
      await fio(
        server.uri,
        directory.path,
        '--rw=randrw',
        '--rwmixread=30',
        '--bssplit=4k/50:64k/30:256k/15:1m/5',
        '--fsync=200',
      ),
    );
  });

  test('fio verifies sequential writes in sectors over several connections', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, JOBS * JOB_SIZE);
    await using server = await startServer(['file', image, '--cache', cache, '--port', '0']);
    expectWork(await fio(server.uri, directory.path, '--rw=write', '--bs=512', '--io_size=4M'));
  });

  test('fio verifies random writes of one size and a flush at the end', async () => {
    await using directory = await temporaryDirectory();
    const image = directory.file('disk.img');
    await createImage(image, JOBS * JOB_SIZE);
    await using server = await startServer(['file', image, '--cache', cache]);
    expectWork(await fio(server.uri, directory.path, '--rw=randwrite', '--bs=16k', '--end_fsync=1'));
  });
});
