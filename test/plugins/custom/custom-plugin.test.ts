/** What authors write, as clients see it: through the in-process server, with libnbd on the other side. */
import { describe, expect, test } from 'vitest';
import { type ExportDefinition, ExportError, serve } from '../../../src/index.ts';
import { FakeLog, type LogLine } from '../../server/fake-log.ts';
import { eventually } from '../../support/polling.ts';
import { python } from '../../support/python.ts';

const SIZE = 1024 * 1024;
const read = (_offset: number, length: number): Uint8Array => new Uint8Array(length);
const nothing = (): void => {};

/** Serves a definition to a script; returns what the script printed and what the log got at error level. */
async function tryOut<H>(definition: ExportDefinition<H>, script: string) {
  const log = new FakeLog();
  await using server = await serve(definition, { log });
  const output = await python(server.uri, script);
  await server.close();
  return { output, errors: log.at('error') };
}

/** The messages of what the log lines name as the cause. */
function causes(lines: readonly LogLine[]): string[] {
  return lines.map(({ fields: { err } }) => (err instanceof Error ? err.message : String(err)));
}

describe('the methods that are there decide what is offered', () => {
  const report = `
h = connect()
print(json.dumps([name for name in ["is_read_only", "can_flush", "can_fua", "can_trim", "can_zero", "can_fast_zero",
    "can_cache", "can_multi_conn", "is_rotational"] if getattr(h, name)()]))
`;
  test.each<[string, Partial<ExportDefinition>, string[]]>([
    ['read', {}, ['is_read_only', 'can_multi_conn']],
    ['write', { write: nothing }, ['can_zero', 'can_fast_zero', 'can_multi_conn']],
    [
      'write and flush',
      { write: nothing, flush: nothing },
      ['can_flush', 'can_fua', 'can_zero', 'can_fast_zero', 'can_multi_conn'],
    ],
    [
      'everything',
      { write: nothing, flush: nothing, trim: nothing, zero: nothing, cache: nothing, isRotational: true },
      [
        'can_flush',
        'can_fua',
        'can_trim',
        'can_zero',
        'can_fast_zero',
        'can_cache',
        'can_multi_conn',
        'is_rotational',
      ],
    ],
    ['open', { open: () => undefined }, ['is_read_only']],
    [
      'open, and a promise',
      { open: () => undefined, canMultiConn: true },
      ['is_read_only', 'can_multi_conn'],
    ],
  ])('%s', async (_name, methods, offered) => {
    const { output } = await tryOut({ size: SIZE, read, ...methods }, report);
    expect(JSON.parse(output)).toEqual(offered);
  });

  test('block sizes, and base:allocation only with extents', async () => {
    const script = `
h = connect(setup=lambda h: h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION))
print(h.get_block_size(nbd.SIZE_MINIMUM), h.get_block_size(nbd.SIZE_PREFERRED), h.can_meta_context(nbd.CONTEXT_BASE_ALLOCATION))`;
    expect((await tryOut({ size: SIZE, read }, script)).output).toBe('1 4096 False\n');
    const extents = (offset: number, length: number) => [{ offset, length }];
    expect((await tryOut({ size: SIZE, read, extents, blockSize: { minimum: 8192 } }, script)).output).toBe(
      '8192 8192 True\n',
    );
  });
});

test('a device of 2^53-1 bytes is read at its very end', async () => {
  const size = Number.MAX_SAFE_INTEGER;
  const definition = { size, read: (offset: number) => Uint8Array.of(offset % 256) };
  const { output } = await tryOut(definition, `print(connect().pread(1, ${size} - 1)[0])`);
  expect(output).toBe('254\n');
});

describe('a method that fails', () => {
  const fileError = Object.assign(new Error('disk full'), { code: 'ENOSPC', errno: -28, syscall: 'write' });
  test.each<[string, () => never | Promise<never>, string, string]>([
    [
      'throws an Error',
      () => {
        throw new Error('broken');
      },
      'EIO',
      'broken',
    ],
    ['rejects', () => Promise.reject(new Error('broken')), 'EIO', 'broken'],
    [
      'throws an ExportError',
      () => {
        throw new ExportError('ENOSPC', 'quota');
      },
      'ENOSPC',
      'quota',
    ],
    ['rejects with an error of node:fs', () => Promise.reject(fileError), 'ENOSPC', 'disk full'],
    [
      'throws an error with a code of its own',
      () => {
        throw Object.assign(new Error('x'), { code: 'E_MINE' });
      },
      'EIO',
      'x',
    ],
    [
      'throws a string',
      () => {
        throw 'just text';
      },
      'EIO',
      "write threw 'just text'",
    ],
    [
      'throws null',
      () => {
        throw null;
      },
      'EIO',
      'write threw null',
    ],
    ['rejects with undefined', () => Promise.reject(), 'EIO', 'write threw undefined'],
  ])('%s', async (_name, write, errno, text) => {
    const script = `
h = connect()
fails(errno.${errno}, h.pwrite, b"x" * 512, 1024)
assert h.pread(512, 0) == bytes(512)`;
    const { errors } = await tryOut({ size: SIZE, read, write }, script);
    expect(errors).toHaveLength(1);
    expect(errors[0]?.fields).toMatchObject({ operation: 'write', offset: 1024, length: 512, errno });
    expect(causes(errors)).toEqual([text]);
  });

  test('fails its own request only: flush, trim, zero, cache, extents', async () => {
    const fail = (): never => {
      throw new Error('broken');
    };
    const script = `
h = connect(setup=lambda h: h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION))
for call in [h.flush, lambda: h.trim(512, 0), lambda: h.zero(512, 0), lambda: h.cache(512, 0), lambda: status(h, 512, 0)]:
    fails(errno.EIO, call)
h.pwrite(b"x" * 512, 0)
fails(errno.EIO, lambda: h.pwrite(b"x" * 512, 0, nbd.CMD_FLAG_FUA))`;
    const broken = { flush: fail, trim: fail, zero: fail, cache: fail, extents: fail };
    const log = new FakeLog();
    const server = await serve({ size: SIZE, read, write: nothing, ...broken }, { log });
    await python(server.uri, script);
    await eventually('the connection is closed', () => (server.connectionCount === 0 ? true : undefined));
    expect(log.at('error').map(({ fields }) => fields['operation'] ?? 'close')).toEqual([
      'flush',
      'trim',
      'zero',
      'cache',
      'extents',
      'flush',
      'close',
    ]);
    // What the client left behind could not be flushed.
    await expect(server.close()).rejects.toThrow('flush of 0 bytes');
  });

  test('open fails the client, not the server', async () => {
    let count = 0;
    const open = (): void => {
      count += 1;
      if (count === 1) throw new Error('not now');
    };
    const script = `
try:
    connect()
except nbd.Error:
    connect().pread(1, 0)
    print("only once")`;
    const { output, errors } = await tryOut({ size: SIZE, read, open }, script);
    expect(output).toBe('only once\n');
    expect(errors.map(({ message }) => message)).toEqual(['The export cannot be opened']);
  });
});

test.each<[string, unknown, string]>([
  ['too few bytes', new Uint8Array(511), 'read must return 512 bytes, and returned 511'],
  ['too many bytes', new Uint8Array(513), 'read must return 512 bytes, and returned 513'],
  ['a string', 'x'.repeat(512), 'read must return a Uint8Array, not'],
  ['an array', new Array(512).fill(0), 'read must return a Uint8Array, not'],
  ['an ArrayBuffer', new ArrayBuffer(512), 'read must return a Uint8Array, not'],
  ['wider numbers', new Uint16Array(512), 'read must return a Uint8Array, not'],
  ['nothing', undefined, 'read must return a Uint8Array, not undefined'],
  [
    'a promise of too little',
    Promise.resolve(new Uint8Array(1)),
    'read must return 512 bytes, and returned 1',
  ],
])('read returns %s: EIO, and the log says so', async (_name, answer, text) => {
  const { errors } = await tryOut(
    { size: SIZE, read: () => answer as Uint8Array },
    'fails(errno.EIO, connect().pread, 512, 0)',
  );
  expect(causes(errors)).toEqual([expect.stringContaining(text)]);
});

test('read may return a Buffer, a view, shared memory, or the promise of a library', async () => {
  const answers = [
    Buffer.alloc(512, 1),
    new Uint8Array(4096).fill(2).subarray(1000, 1512),
    new Uint8Array(new SharedArrayBuffer(512)).fill(3),
    // biome-ignore lint/suspicious/noThenProperty: promises of libraries are objects like this one.
    { then: (resolve: (bytes: Uint8Array) => void) => resolve(new Uint8Array(512).fill(4)) },
  ];
  const script = 'h = connect()\nprint([h.pread(512, 0) == bytes([n]) * 512 for n in (1, 2, 3, 4)])';
  const { output } = await tryOut({ size: SIZE, read: () => answers.shift() as Uint8Array }, script);
  expect(output).toBe('[True, True, True, True]\n');
});

describe('extents', () => {
  const script = `
h = connect(setup=lambda h: h.add_meta_context(nbd.CONTEXT_BASE_ALLOCATION))`;

  test('are what the definition says, as far as it says', async () => {
    const extents = (offset: number) =>
      offset < 65536
        ? [{ offset, length: 65536 - offset, isHole: true, isZero: true }]
        : [
            { offset, length: 4096 },
            { offset: offset + 4096, length: SIZE - offset - 4096, isZero: true },
          ];
    const { output } = await tryOut(
      { size: SIZE, read, extents },
      `${script}\nprint(json.dumps(extents(h)))`,
    );
    expect(JSON.parse(output)).toEqual([
      [0, 65536, 3],
      [65536, 4096, 0],
      [69632, SIZE - 69632, 2],
    ]);
  });

  test.each<[string, unknown, string]>([
    ['none', [], 'array of at least one'],
    ['no array', { offset: 0, length: 4096 }, 'array of at least one'],
    ['a gap before', [{ offset: 4096, length: 4096 }], 'one at 0 is due, and one at 4096 came'],
    [
      'a gap',
      [
        { offset: 0, length: 4096 },
        { offset: 8192, length: 4096 },
      ],
      'one at 4096 is due, and one at 8192',
    ],
    [
      'an overlap',
      [
        { offset: 0, length: 4096 },
        { offset: 2048, length: 4096 },
      ],
      'one at 4096 is due, and one at 2048',
    ],
    ['a length of 0', [{ offset: 0, length: 0 }], 'the one at 0 has a length of 0'],
    ['a broken length', [{ offset: 0, length: 1.5 }], 'the one at 0 has a length of 1.5'],
    [
      'more than the export',
      [{ offset: 0, length: SIZE + 512 }],
      `the one at 0 has a length of ${SIZE + 512}`,
    ],
    ['an unaligned length', [{ offset: 0, length: 100 }], 'multiples of 512'],
    [
      'a wrong flag',
      [{ offset: 0, length: 512, isZero: 1 }],
      'isHole and isZero are true, false or left out',
    ],
    ['null', [null], 'one at 0 is due, and one at undefined came'],
  ])('with %s are EIO, and the log says so', async (_name, answer, text) => {
    const { errors } = await tryOut(
      { size: SIZE, read, blockSize: { minimum: 512 }, extents: () => answer as [] },
      `${script}\nfails(errno.EIO, lambda: status(h, 65536, 0))\nassert h.pread(131072, 0) == bytes(131072)`,
    );
    expect(causes(errors)).toEqual([expect.stringContaining(text)]);
  });
});

describe('zeros', () => {
  function device(zero?: ExportDefinition['zero']) {
    const disk = new Uint8Array(SIZE).fill(7);
    const calls: string[] = [];
    return {
      calls,
      disk,
      definition: {
        size: SIZE,
        read: (offset: number, length: number) => disk.subarray(offset, offset + length),
        write: (offset: number, data: Uint8Array) => {
          calls.push(`write ${offset} ${data.length}`);
          disk.set(data, offset);
        },
        flush: () => void calls.push('flush'),
        ...(zero === undefined ? {} : { zero }),
      },
    };
  }

  test('are written where there is no zero, and a client in a hurry is told at once', async () => {
    const { definition, calls, disk } = device();
    const script = `
h = connect()
fails(errno.ENOTSUP, lambda: h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO))
h.zero(1000000, 1000, nbd.CMD_FLAG_FUA)`;
    const { errors } = await tryOut(definition, script);
    expect(errors).toEqual([]);
    expect(calls).toEqual(['write 1000 1000000', 'flush']);
    expect([disk[999], disk[1000], disk[1_000_999], disk[1_001_000]]).toEqual([7, 0, 0, 7]);
  });

  test('are written where zero says ENOTSUP, and left to it elsewhere', async () => {
    const requests: unknown[] = [];
    const { definition, calls } = device((offset, length, request) => {
      requests.push([offset, length, request]);
      if (offset > 0) throw new ExportError('ENOTSUP');
    });
    const script = `
h = connect()
h.zero(4096, 0)
h.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_NO_HOLE)
h.zero(4096, 8192)
fails(errno.ENOTSUP, lambda: h.zero(4096, 8192, nbd.CMD_FLAG_FAST_ZERO))
h.flush()`;
    const { errors } = await tryOut(definition, script);
    expect(errors).toEqual([]);
    expect(requests).toEqual([
      [0, 4096, { mayPunch: true }],
      [0, 4096, { mayPunch: false }],
      [8192, 4096, { mayPunch: true }],
      [8192, 4096, { mayPunch: true }],
    ]);
    expect(calls).toEqual(['write 8192 4096', 'flush']);
  });
});

test('each connection has what its open returned, and close and unload come in order', async () => {
  const events: string[] = [];
  let count = 0;
  const definition = {
    size: SIZE,
    async open() {
      count += 1;
      return { name: `client ${count}` };
    },
    read: (_offset: number, length: number, handle: { name: string }) => Buffer.alloc(length, handle.name),
    write: () => {},
    flush: (handle: { name: string }) => void events.push(`flush ${handle.name}`),
    close: (handle: { name: string }) => void events.push(`close ${handle.name}`),
    unload: () => void events.push('unload'),
  };
  const { output } = await tryOut(
    definition,
    'a, b = connect(), connect()\nprint(a.pread(8, 0), b.pread(8, 0))\nb.pwrite(b"x", 0)\na.shutdown()\nb.shutdown()',
  );
  expect(output).toBe("bytearray(b'client 1') bytearray(b'client 2')\n");
  // Client 2 has written and left without a FLUSH.
  expect([...events].sort()).toEqual(['close client 1', 'close client 2', 'flush client 2', 'unload']);
  expect(events.at(-1)).toBe('unload');
});

test('what write is given is its own, and methods keep their this', async () => {
  class Journal {
    readonly size = SIZE;
    readonly #entries: Uint8Array[] = [];
    read(_offset: number, length: number): Uint8Array {
      return Buffer.concat(this.#entries).subarray(0, length);
    }
    write(_offset: number, data: Uint8Array): void {
      this.#entries.push(data);
    }
  }
  const script = `
h = connect()
for n in range(100):
    h.pwrite(bytes([n]) * 5000, 0)
assert h.pread(500000, 0) == b"".join(bytes([n]) * 5000 for n in range(100))`;
  expect((await tryOut(new Journal(), script)).errors).toEqual([]);
});

test('what a flush overtook is flushed when the client leaves', async () => {
  const events: string[] = [];
  let finish = (): void => {};
  const definition = {
    size: SIZE,
    read,
    write: () =>
      new Promise<void>((resolve) => {
        finish = () => {
          events.push('written');
          resolve();
        };
      }),
    flush: () => {
      events.push('flush');
      setTimeout(finish);
    },
  };
  await tryOut(
    definition,
    'h = connect()\nfinish(h, [h.aio_pwrite(nbd.Buffer(512), 0), h.aio_flush()])\nh.shutdown()',
  );
  expect(events.slice(0, 3)).toEqual(['flush', 'written', 'flush']);
});

test('a method that vanishes is called all the same: no write is acknowledged that nobody made', async () => {
  const written: number[] = [];
  const definition: { -readonly [key in keyof ExportDefinition]: ExportDefinition[key] } = {
    size: SIZE,
    read,
    write: (offset) => void written.push(offset),
  };
  await using server = await serve(definition, { log: new FakeLog() });
  delete definition.write;
  await python(server.uri, 'connect().pwrite(b"x", 5)');
  expect(written).toEqual([5]);
});

test('trim and cache of nothing reach nobody', async () => {
  const calls: string[] = [];
  const { errors } = await tryOut(
    {
      size: SIZE,
      read,
      write: nothing,
      flush: () => void calls.push('flush'),
      trim: () => void calls.push('trim'),
      cache: () => void calls.push('cache'),
    },
    'h = connect(strict=0)\nh.trim(0, 0)\nh.cache(0, 0)\nh.trim(0, 0, nbd.CMD_FLAG_FUA)\nh.zero(0, 0)\nh.flush()',
  );
  expect(errors).toEqual([]);
  expect(calls).toEqual(['flush', 'flush']);
});

describe('what never settles does not hold the server for ever', () => {
  const never = (): Promise<never> => new Promise(() => {});
  const asynchronously = `
h = connect()
h.aio_pread(nbd.Buffer(512), 0)
h.poll(100)`;

  test.concurrent('a read', async () => {
    const server = await serve({ size: SIZE, read: never }, { log: new FakeLog() });
    await python(server.uri, asynchronously);
    await expect(server.close()).rejects.toThrow('Requests in flight do not end');
  });

  test.concurrent('unload', async () => {
    const server = await serve({ size: SIZE, read, unload: never }, { log: new FakeLog() });
    await expect(server.close()).rejects.toThrow('unload did not settle within 5 s');
  });

  test.concurrent('open', async () => {
    const log = new FakeLog();
    let opened: (handle: string) => void = () => {};
    const closed: string[] = [];
    const open = (): Promise<string> =>
      new Promise((resolve) => {
        opened = resolve;
      });
    const close = (handle: string): void => void closed.push(handle);
    await using server = await serve({ size: SIZE, open, read, close }, { log });
    await python(server.uri, 'try:\n    connect()\nexcept nbd.Error:\n    pass');
    await eventually('the connection is closed', () => (server.connectionCount === 0 ? true : undefined));
    expect(causes(log.at('error'))).toEqual(['open did not settle within 10 s']);
    opened('late');
    await eventually('what opened too late is closed', () => (closed[0] === 'late' ? true : undefined));
  });
});
