/** The meta context `x-nbd-serve:resident`: which pages are in the cache, extent by extent. */
import { ftruncateSync, readSync, writeSync } from 'node:fs';
import { expect, test } from 'vitest';
import { native } from '../../../src/native/binding.ts';
import { call } from '../../../src/native/call.ts';
import { POSIX_FADV_RANDOM } from '../../../src/native/constants.ts';
import { findResident, STATE_RESIDENT, STATE_UNWRITTEN } from '../../../src/plugins/file/residency.ts';
import type { StatusExtent } from '../../../src/protocol/reply.ts';
import { evict, Files, GiB, MiB } from './files.ts';

const PAGE = native.page_size;

/** Neighbours of equal status as one, as a reply shows them. */
function merged(extents: readonly StatusExtent[]): StatusExtent[] {
  const result: StatusExtent[] = [];
  for (const extent of extents) {
    const last = result.at(-1);
    if (last?.status === extent.status) {
      result.splice(-1, 1, { length: last.length + extent.length, status: last.status });
    } else {
      result.push(extent);
    }
  }
  return result;
}

async function withoutReadAhead(fd: number): Promise<void> {
  await call((done) => {
    native.posix_fadvise(fd, 0, 0, POSIX_FADV_RANDOM, done);
  });
}

test('single pages far apart in a large sparse file are found, to the page', async () => {
  await using files = await Files.create();
  const fd = files.open('w+');
  ftruncateSync(fd, 8 * GiB + 513);
  await withoutReadAhead(fd);
  const page = Buffer.alloc(PAGE);
  for (const index of [3, 4, 600_000]) readSync(fd, page, 0, PAGE, index * PAGE);
  expect(merged(await findResident(fd, 0, 4 * GiB - 1))).toEqual([
    { length: 3 * PAGE, status: 0 },
    { length: 2 * PAGE, status: STATE_RESIDENT },
    { length: (600_000 - 5) * PAGE, status: 0 },
    { length: PAGE, status: STATE_RESIDENT },
    { length: 4 * GiB - 1 - 600_001 * PAGE, status: 0 },
  ]);
});

test('what is not written back yet is told apart, and a range need not be of whole pages', async () => {
  await using files = await Files.create();
  const fd = files.open('w+');
  writeSync(fd, Buffer.alloc(4 * MiB, 1));
  await evict(fd);
  await withoutReadAhead(fd);
  readSync(fd, Buffer.alloc(PAGE), 0, PAGE, 0);
  writeSync(fd, Buffer.alloc(PAGE, 2), 0, PAGE, PAGE);
  expect(merged(await findResident(fd, 100, 3 * PAGE))).toEqual([
    { length: PAGE - 100, status: STATE_RESIDENT },
    { length: PAGE, status: STATE_RESIDENT | STATE_UNWRITTEN },
    { length: PAGE + 100, status: 0 },
  ]);
});
