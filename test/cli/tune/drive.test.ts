/** The driver against handles that answer now, later, or never well. */
import { createHistogram } from 'node:perf_hooks';
import { setTimeout as sleep, setImmediate as turn } from 'node:timers/promises';
import { describe, expect, test } from 'vitest';
import { type DriveOptions, driveWrites } from '../../../src/cli/tune/drive.ts';
import { type Pattern, workloadOf } from '../../../src/cli/tune/workload.ts';
import type { Handle } from '../../../src/plugins/plugin.ts';

const MIB = 1024 * 1024;

type Write = (offset: number, length: number) => void | Promise<void>;

/** A handle of which only writes are used. */
function handleThat(write: Write, writeNow?: (offset: number) => boolean | Promise<void>): Handle {
  const partial: Partial<Handle> = {
    write: (_buffer, _start, length, offset) => write(offset, length),
    ...(writeNow === undefined
      ? {}
      : {
          writeNow: (_buffer: Uint8Array, _start: number, _length: number, offset: number) =>
            writeNow(offset),
        }),
  };
  return partial as Handle;
}

function options(signal = new AbortController().signal): DriveOptions & { written: number } {
  const made = {
    signal,
    latencies: createHistogram(),
    written: 0,
    onWritten: (bytes: number) => {
      made.written += bytes;
    },
  };
  return made;
}

describe.each<[Pattern, number, number]>([
  ['sequential', 64 * 1024, 16],
  ['random', 4096, 32],
])('%s', (pattern, requestBytes, depth) => {
  const workload = workloadOf(pattern, 4 * MIB);

  test('writes as many bytes as the file has, inside it, with all requests of a depth in flight', async () => {
    const offsets: number[] = [];
    let [inFlight, inFlightMax] = [0, 0];
    const handle = handleThat(async (offset, length) => {
      expect(length).toBe(requestBytes);
      offsets.push(offset);
      inFlight += 1;
      inFlightMax = Math.max(inFlightMax, inFlight);
      await sleep(1);
      inFlight -= 1;
    });
    const made = options();
    await driveWrites(handle, workload, made);
    expect(offsets).toHaveLength((4 * MIB) / requestBytes);
    expect(offsets.every((offset) => offset % requestBytes === 0 && offset >= 0 && offset < 4 * MIB)).toBe(
      true,
    );
    expect(inFlightMax).toBe(depth);
    expect(made.written).toBe(4 * MIB);
    expect(made.latencies.count).toBe(offsets.length);
  });
});

test('a sequential workload writes every block once, a random one nearly two thirds of them', () => {
  const distinct = (pattern: Pattern): number => {
    const { count, offsetOf } = workloadOf(pattern, 64 * MIB);
    return new Set(Array.from({ length: count }, (_, index) => offsetOf(index))).size / count;
  };
  expect(distinct('sequential')).toBe(1);
  // 1 - 1/e, as for numbers drawn at random.
  expect(distinct('random')).toBeCloseTo(0.632, 2);
});

test('lets the event loop turn although every write is done at once', async () => {
  let turns = 0;
  let isDone = false;
  const counting = (async () => {
    while (!isDone) {
      await turn();
      turns += 1;
    }
  })();
  const workload = workloadOf('random', 4 * MIB);
  await driveWrites(
    handleThat(
      () => expect.unreachable(),
      () => true,
    ),
    workload,
    options(),
  );
  isDone = true;
  await counting;
  expect(turns).toBeGreaterThanOrEqual(workload.count / workload.depth - 1);
});

test('waits for what is in flight before it fails', async () => {
  let inFlight = 0;
  const handle = handleThat(async (offset) => {
    inFlight += 1;
    await sleep(offset === 0 ? 1 : 20);
    inFlight -= 1;
    if (offset === 0) throw new Error('disk on fire');
  });
  await expect(driveWrites(handle, workloadOf('sequential', 16 * MIB), options())).rejects.toThrow(
    'disk on fire',
  );
  expect(inFlight).toBe(0);
});

test('a write that throws at once fails the run, too', async () => {
  const handle = handleThat(
    () => undefined,
    () => {
      throw new Error('disk on fire');
    },
  );
  await expect(driveWrites(handle, workloadOf('sequential', MIB), options())).rejects.toThrow('disk on fire');
});

test('stops with the reason of its signal', async () => {
  const stop = new AbortController();
  let writes = 0;
  const handle = handleThat(async () => {
    writes += 1;
    if (writes === 20) stop.abort(new Error('enough'));
    await turn();
  });
  await expect(driveWrites(handle, workloadOf('random', 16 * MIB), options(stop.signal))).rejects.toThrow(
    'enough',
  );
  expect(writes).toBeLessThan(200);
});
