/** Wrong types and ranges. Each must throw before anything is done, naming the argument. */
import { describe, expect, test } from 'vitest';
import { native } from '../../src/native/binding.ts';
import { temporaryFile } from './support.ts';

const MAX = Number.MAX_SAFE_INTEGER;
const buffer = Buffer.alloc(16);
const counts = new Float64Array(5);

function done(): void {
  throw new Error('done was called for a refused call');
}

/** One legal call each: `values` by position, `names` as in binding.ts. */
const calls: [name: string, names: string[], values: unknown[]][] = [
  ['set_pool_size', ['count'], [16]],
  ['preadv2', ['fd', 'buffer', 'start', 'length', 'offset', 'flags'], [99999, buffer, 0, 16, 0, 0]],
  ['pwritev2', ['fd', 'buffer', 'start', 'length', 'offset', 'flags'], [99999, buffer, 0, 16, 0, 0]],
  ['pread_async', ['fd', 'buffer', 'start', 'length', 'offset', 'done'], [99999, buffer, 0, 16, 0, done]],
  [
    'pwrite_async',
    ['fd', 'buffer', 'start', 'length', 'offset', 'flags', 'done'],
    [99999, buffer, 0, 16, 0, 0, done],
  ],
  [
    'pwrite_inside_async',
    ['fd', 'buffer', 'start', 'length', 'offset', 'done'],
    [99999, buffer, 0, 16, 0, done],
  ],
  ['openat2', ['dirfd', 'path', 'flags', 'resolve', 'done'], [99999, 'x', 0, 0, done]],
  ['fdatasync', ['fd', 'done'], [99999, done]],
  ['lseek', ['fd', 'offset', 'whence', 'done'], [99999, 0, 3, done]],
  ['fallocate', ['fd', 'mode', 'offset', 'length', 'done'], [99999, 0, 0, 1, done]],
  ['blkzeroout', ['fd', 'offset', 'length', 'done'], [99999, 0, 512, done]],
  ['blkdiscard', ['fd', 'offset', 'length', 'done'], [99999, 0, 512, done]],
  ['ofd_setlk', ['fd', 'type', 'start', 'length'], [99999, 0, 0, 0]],
  ['ofd_getlk', ['fd', 'type', 'start', 'length'], [99999, 0, 0, 0]],
  ['posix_fadvise', ['fd', 'offset', 'length', 'advice', 'done'], [99999, 0, 0, 4, done]],
  ['sync_file_range', ['fd', 'offset', 'length', 'flags', 'done'], [99999, 0, 0, 0, done]],
  ['cachestat', ['fd', 'offset', 'length', 'counts', 'done'], [99999, 0, 0, counts, done]],
  ['split_folios', ['fd', 'offset', 'length', 'done'], [99999, 0, 4096, done]],
  ['mincore_resident', ['fd', 'offset', 'length', 'done'], [99999, 0, 0, done]],
  [
    'copy_memory',
    ['target', 'targetStart', 'targetLength', 'source', 'sourceStart', 'sourceLength'],
    [buffer, 0, 0, buffer, 16, 0],
  ],
  ['discard_memory', ['buffer', 'start', 'length'], [buffer, 16, 0]],
  ['prefer_huge_page', ['buffer', 'start', 'length'], [buffer, 16, 0]],
  ['listen_unix', ['path', 'mode', 'backlog'], ['', 0o600, 1]],
  ['listen_tcp', ['address', 'port', 'backlog'], ['nowhere', 0, 1]],
  ['local_port', ['fd'], [99999]],
  ['local_address', ['fd'], [99999]],
  ['unacknowledged', ['fd'], [99999]],
  ['adopt_listener', ['fd'], [99999]],
  ['notify', ['path', 'message', 'done'], ['', 'READY=1', done]],
];

const wrongTypes: Record<string, unknown[]> = {
  number: [undefined, null, '1', 1n, {}, [], true, Symbol('number'), () => 1],
  object: [undefined, null, 1, 'text', {}, [], new Uint16Array(64), new DataView(new ArrayBuffer(64))],
  function: [undefined, null, 1, {}, 'done'],
  string: [undefined, null, 1, {}, Buffer.from('path')],
};
const wrongNumbers = [
  Number.NaN,
  -1,
  -0.5,
  0.5,
  MAX + 1,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
  1e300,
];

function call(name: string, values: unknown[]): unknown {
  const target = native as unknown as Record<string, (...values: unknown[]) => unknown>;
  return target[name]?.(...values);
}

function errorOf(action: () => unknown): { name: string; code: unknown; message: string } {
  try {
    action();
  } catch (error) {
    if (!(error instanceof Error)) throw error;
    return { name: error.name, code: Reflect.get(error, 'code'), message: error.message };
  }
  throw new Error('Nothing was thrown');
}

describe.each(calls)('%s', (name, names, values) => {
  test.each(names.map((argument, index) => ({ argument, index })))(
    'refuses a wrong type as $argument',
    ({ argument, index }) => {
      for (const wrong of wrongTypes[typeof values[index]] ?? []) {
        const error = errorOf(() => call(name, values.with(index, wrong)));
        expect(error).toMatchObject({ name: 'TypeError', code: 'ERR_INVALID_ARG_TYPE' });
        expect(error.message).toContain(` as ${argument}`);
      }
    },
  );

  test('refuses numbers that are not whole, negative, or too large', () => {
    for (const [index, argument] of names.entries()) {
      if (typeof values[index] !== 'number') continue;
      for (const wrong of wrongNumbers) {
        const error = errorOf(() => call(name, values.with(index, wrong)));
        expect(error).toMatchObject({ name: 'RangeError', code: 'ERR_OUT_OF_RANGE' });
        expect(error.message).toContain(` as ${argument}, not `);
      }
    }
  });

  test('refuses a call without arguments', () => {
    expect(errorOf(() => call(name, [])).name).toBe('TypeError');
  });
});

describe('slices', () => {
  test.each([
    [17, 0, 'start'],
    [0, 17, 'length'],
    [16, 1, 'length'],
    [8, 9, 'length'],
    [MAX, MAX, 'start'],
  ])('start %d and length %d are refused for 16 bytes', (start, length, argument) => {
    const file = new native.DirectFile(0, 0);
    for (const action of [
      () => file.read(buffer, start, length, 0, 0, done),
      () => file.write(buffer, start, length, 0, true, done),
      () => file.take_ahead(buffer, start, length, 0, 0),
      () => native.preadv2(0, buffer, start, length, 0, 0),
      () => native.pwritev2(0, buffer, start, length, 0, 0),
      () => native.pread_async(0, buffer, start, length, 0, done),
      () => native.pwrite_async(0, buffer, start, length, 0, 0, done),
    ]) {
      const error = errorOf(action);
      expect(error.name).toBe('RangeError');
      expect(error.message).toContain(` as ${argument}, not `);
    }
  });

  test('an empty slice at the end is legal', () => {
    const { fd } = temporaryFile();
    expect(native.preadv2(fd, buffer, 16, 0, 0, 0)).toBe(0);
    expect(native.pwritev2(fd, buffer, 16, 0, 0, 0)).toBe(0);
    expect(native.preadv2(fd, new Uint8Array(0), 0, 0, 0, 0)).toBe(0);
  });

  test('a view is written at its own place in its ArrayBuffer', () => {
    const { fd } = temporaryFile();
    const whole = Buffer.alloc(64, 0xff);
    native.pwritev2(fd, Buffer.from('abcd'), 1, 2, 0, 0);
    expect(native.preadv2(fd, whole.subarray(32, 48), 4, 8, 0, 0)).toBe(2);
    expect(whole.subarray(34, 40).toString('latin1')).toBe('\u00ff\u00ffbc\u00ff\u00ff');
  });

  test('a detached buffer has no room', () => {
    const detached = new Uint8Array(16);
    structuredClone(detached.buffer, { transfer: [detached.buffer] });
    expect(errorOf(() => native.preadv2(0, detached, 0, 16, 0, 0)).name).toBe('RangeError');
  });

  test('a buffer over shared memory is legal', () => {
    const { fd } = temporaryFile();
    const shared = new Uint8Array(new SharedArrayBuffer(8));
    native.pwritev2(fd, Buffer.from('12345678'), 0, 8, 0, 0);
    expect(native.preadv2(fd, shared, 0, 8, 0, 0)).toBe(8);
    expect(shared[7]).toBe('8'.charCodeAt(0));
  });
});

test('cachestat refuses an array that is too short', () => {
  const error = errorOf(() => native.cachestat(0, 0, 0, new Float64Array(4), done));
  expect(error).toMatchObject({ name: 'RangeError' });
  expect(error.message).toContain('counts');
});

test.each([0, 257])('set_pool_size refuses %d', (count) => {
  expect(errorOf(() => native.set_pool_size(count)).name).toBe('RangeError');
});

describe('classes', () => {
  const { WriteWindows, Listener } = native as unknown as Record<
    string,
    new (
      ...values: unknown[]
    ) => Record<string, (...values: unknown[]) => unknown>
  >;
  if (WriteWindows === undefined || Listener === undefined) throw new Error('A class is missing');

  test.each([
    [[], 'TypeError', 'fd'],
    [['0', 8, 4096], 'TypeError', 'fd'],
    [[-1, 8, 4096], 'RangeError', 'fd'],
    [[0, 4097, 4096], 'RangeError', 'windowCount'],
    [[0, 8, 0], 'RangeError', 'windowBytesMax'],
    [[0, 8, MAX + 1], 'RangeError', 'windowBytesMax'],
  ])('WriteWindows refuses %j', (values, name, argument) => {
    const error = errorOf(() => new WriteWindows(...values));
    expect(error.name).toBe(name);
    expect(error.message).toContain(argument);
  });

  test.each([[[]], [[0]], [[0, 'accepted']], [[Number.NaN, () => {}]]])('Listener refuses %j', (values) => {
    expect(errorOf(() => new Listener(...values)).name).toMatch(/^(Type|Range)Error$/);
  });

  test('methods refuse wrong arguments', () => {
    const windows = new WriteWindows(0, 1, 4096);
    for (const values of [[], [0], ['0', 1], [0, Number.NaN], [-1, 1], [0, MAX + 1]]) {
      expect(errorOf(() => windows['add']?.(...values)).name).toMatch(/^(Type|Range)Error$/);
    }
    for (const method of ['advance', 'drain']) {
      expect(errorOf(() => windows[method]?.()).name).toBe('TypeError');
      expect(errorOf(() => windows[method]?.({})).name).toBe('TypeError');
    }
  });

  test('constructors refuse a call without new', () => {
    expect(errorOf(() => Reflect.apply(WriteWindows, undefined, [0, 1, 4096])).name).toBe('TypeError');
    expect(errorOf(() => Reflect.apply(Listener, undefined, [0, () => {}])).name).toBe('TypeError');
  });

  test('methods refuse to be borrowed by a foreign object', () => {
    const windows = new WriteWindows(0, 1, 4096);
    const listener = Listener.prototype as Record<string, () => unknown>;
    for (const receiver of [windows, {}, Object.create(WriteWindows.prototype), undefined]) {
      expect(errorOf(() => Reflect.apply(listener['close'] as () => unknown, receiver, [])).name).toBe(
        'TypeError',
      );
    }
    const add = windows['add'] as () => unknown;
    for (const receiver of [Object.create(WriteWindows.prototype), {}, native]) {
      expect(errorOf(() => Reflect.apply(add, receiver, [0, 1])).name).toBe('TypeError');
    }
  });

  test('a subclass whose super call is refused leaves nothing behind', () => {
    class Sub extends WriteWindows {
      constructor() {
        super(Number.NaN, 1, 4096);
      }
    }
    expect(errorOf(() => new Sub()).name).toBe('RangeError');
  });
});
