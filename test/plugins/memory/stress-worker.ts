/** One thread of the stress test: see stress.test.ts. It posts a message for what it found wrong, or 'right'. */
import { parentPort, workerData } from 'node:worker_threads';
import { attachDisk, type DiskData } from '../../../src/plugins/memory/disk.ts';
import { randomNumbers } from '../../support/random.ts';

export interface StressSetup {
  readonly data: DiskData;
  readonly threadCount: number;
  readonly thread: number;
  readonly operationCount: number;
}

const PAGE = 64 * 1024;
const SECTOR = 512;

/** Pages whose sectors belong to the threads in turn, and pages that belong to nobody. They span two tables. */
export const OWNED_PAGES = 4;
export const COMMON_PAGES = 8;
export const BASE = 2 ** 30 - 6 * PAGE;
const COMMON = BASE + OWNED_PAGES * PAGE;

const { data, threadCount, thread, operationCount } = workerData as StressSetup;
const array = attachDisk(data);
const random = randomNumbers(thread + 1);
const buffer = Buffer.alloc(2 * PAGE);

function untilDone(length: number, step: (done: number) => number): void {
  for (let done = 0; done < length; ) {
    done += step(done);
  }
}

/** Half of all bytes are moved where they lie; false when nothing is lent. */
function moveLent(
  offset: number,
  length: number,
  purpose: 'read' | 'write',
  move: (part: Uint8Array, position: number) => void,
): boolean {
  const lent = random(2) === 0 ? array.lend(offset, length, purpose) : undefined;
  let position = 0;
  for (const [index, whole] of lent?.arrays.entries() ?? []) {
    const start = lent?.ranges[2 * index] ?? 0;
    const count = lent?.ranges[2 * index + 1] ?? 0;
    move(whole.subarray(start, start + count), position);
    position += count;
  }
  lent?.giveBack();
  return lent !== undefined;
}

function read(offset: number, length: number): Buffer {
  buffer.fill(0xee, 0, length);
  if (moveLent(offset, length, 'read', (part, position) => buffer.set(part, position))) {
    return buffer.subarray(0, length);
  }
  untilDone(length, (done) => array.read(buffer, done, length - done, offset + done));
  return buffer.subarray(0, length);
}

function write(offset: number, length: number, value: number): void {
  if (moveLent(offset, length, 'write', (part) => part.fill(value))) {
    return;
  }
  buffer.fill(value, 0, length);
  untilDone(length, (done) => array.write(buffer, done, length - done, offset + done));
}

function zero(offset: number, length: number, mayPunch: boolean): void {
  untilDone(length, (done) => array.zero(offset + done, length - done, mayPunch, Number.POSITIVE_INFINITY));
}

/** Nobody else writes these sectors, so they hold what this thread left there. */
const ownCount = (OWNED_PAGES * PAGE) / SECTOR / threadCount;
const own = new Uint8Array(Math.floor(ownCount));

function useOwn(): string | undefined {
  const index = random(own.length);
  const offset = BASE + (index * threadCount + thread) * SECTOR;
  switch (random(3)) {
    case 0:
      own[index] = 1 + random(255);
      write(offset, SECTOR, own[index] ?? 0);
      return undefined;
    case 1:
      own[index] = 0;
      zero(offset, SECTOR, random(4) > 0);
      return undefined;
    default: {
      const wrong = read(offset, SECTOR).findIndex((byte) => byte !== own[index]);
      return wrong < 0 ? undefined : `byte ${wrong} at ${offset} is ${buffer[wrong]} and not ${own[index]}`;
    }
  }
}

/** Everybody writes only its number into a page: what else is found there came from another page. */
function useCommon(): string | undefined {
  const page = random(COMMON_PAGES);
  const isWhole = random(2) === 0;
  const start = isWhole ? 0 : random(PAGE - 1);
  const length = isWhole ? PAGE : 1 + random(PAGE - start);
  const offset = COMMON + page * PAGE + start;
  switch (random(5)) {
    case 0:
      write(offset, length, page + 1);
      return undefined;
    case 4:
      // A client that has left before it sent anything.
      array.lend(offset, length, 'write')?.giveBack();
      return undefined;
    case 1:
      zero(offset, length, random(4) > 0);
      return undefined;
    case 2: {
      const found = array.extents(offset, length, 10, Number.POSITIVE_INFINITY);
      const sum = found.reduce((total, extent) => total + extent.length, 0);
      return sum === length
        ? undefined
        : `extents of ${length} bytes at ${offset} are ${JSON.stringify(found)}`;
    }
    default: {
      const wrong = read(offset, length).findIndex((byte) => byte !== 0 && byte !== page + 1);
      return wrong < 0 ? undefined : `byte ${wrong} at ${offset} is ${buffer[wrong]}, of another page`;
    }
  }
}

let problem: string | undefined;
for (let count = 0; count < operationCount && problem === undefined; count += 1) {
  problem = random(2) === 0 ? useOwn() : useCommon();
}
for (let index = 0; index < own.length && problem === undefined; index += 1) {
  const offset = BASE + (index * threadCount + thread) * SECTOR;
  if (read(offset, SECTOR).some((byte) => byte !== own[index])) {
    problem = `in the end the sector at ${offset} is not ${own[index]}`;
  }
}
parentPort?.postMessage(problem ?? 'right');
