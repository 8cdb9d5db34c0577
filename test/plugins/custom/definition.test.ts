/** Definitions: what is refused before anything is served, and what types authors get. */
import { expect, expectTypeOf, test } from 'vitest';
import { defineExport, type ExportDefinition } from '../../../src/index.ts';

const read = (_offset: number, length: number): Uint8Array => new Uint8Array(length);
const nothing = (): void => {};

test.each<[string, unknown, string]>([
  ['nothing', undefined, 'An export is an object with size and read, not undefined'],
  ['a function', () => {}, 'An export is an object with size and read, not [Function'],
  ['no size', { read }, '"size" of an export is a number of bytes, not undefined'],
  ['a text as size', { size: '1M', read }, `"size" of an export is a number of bytes, not '1M'`],
  ['a bigint as size', { size: 512n, read }, '"size" of an export is a number of bytes, not 512n'],
  ['a size of NaN', { size: Number.NaN, read }, 'a whole number from 0 to 9007199254740991, not NaN'],
  ['half a byte', { size: 0.5, read }, 'a whole number from 0 to 9007199254740991, not 0.5'],
  ['a negative size', { size: -1, read }, 'a whole number from 0 to 9007199254740991, not -1'],
  [
    'too large a size',
    { size: 2 ** 53, read },
    'a whole number from 0 to 9007199254740991, not 9007199254740992',
  ],
  [
    'a method that is misspelt',
    { size: 1, read: () => {}, wirte: () => {} },
    'An export has no method "wirte"; there are open, write, flush, trim, zero, cache, extents, close, unload and read',
  ],
  ['no read', { size: 1 }, 'An export needs a method read(offset, length), and has undefined'],
  [
    'a read that is no method',
    { size: 1, read: {} },
    'An export needs a method read(offset, length), and has {}',
  ],
  [
    'a write that is no method',
    { size: 1, read, write: true },
    '"write" of an export is a method or left out, not true',
  ],
  [
    'null as a method',
    { size: 1, read, unload: null },
    '"unload" of an export is a method or left out, not null',
  ],
  [
    'trim without write',
    { size: 1, read, trim: nothing },
    'An export with "trim" needs a method write(offset, data), too',
  ],
  [
    'flush without write',
    { size: 1, read, flush: nothing },
    'An export with "flush" needs a method write(offset, data), too',
  ],
  [
    'a wrong flag',
    { size: 1, read, canMultiConn: 1 },
    '"canMultiConn" of an export is true, false or left out, not 1',
  ],
  [
    'a number as description',
    { size: 1, read, description: 5 },
    '"description" of an export is a text, not 5',
  ],
  ['a long description', { size: 1, read, description: 'ü'.repeat(2049) }, 'has at most 4096 bytes'],
  [
    'a wrong block size',
    { size: 0, read, blockSize: 512 },
    '"blockSize" of an export is an object or left out, not 512',
  ],
  [
    'a crooked minimum',
    { size: 0, read, blockSize: { minimum: 1000 } },
    '"blockSize.minimum" is a power of two from 1 to 65536, not 1000',
  ],
  [
    'a large minimum',
    { size: 0, read, blockSize: { minimum: 131072 } },
    '"blockSize.minimum" is a power of two from 1 to 65536, not 131072',
  ],
  [
    'a minimum of 0',
    { size: 0, read, blockSize: { minimum: 0 } },
    '"blockSize.minimum" is a power of two from 1 to 65536, not 0',
  ],
  [
    'a small preference',
    { size: 0, read, blockSize: { preferred: 256 } },
    '"blockSize.preferred" is a power of two from 512 to 33554432, not 256',
  ],
  [
    'a preference below the minimum',
    { size: 0, read, blockSize: { minimum: 8192, preferred: 4096 } },
    '"blockSize.preferred" is a power of two from 8192 to 33554432, not 4096',
  ],
  [
    'a size between blocks',
    { size: 1000, read, blockSize: { minimum: 512 } },
    '"size" of an export is a multiple of blockSize.minimum (512), not 1000',
  ],
])('defineExport refuses %s in one line', (_name, definition, message) => {
  const define = () => defineExport(definition as ExportDefinition);
  expect(define).toThrow(message);
  expect(define).not.toThrow('\n');
});

test('defineExport returns what it was given', () => {
  const definition = { size: 0, read };
  expect(defineExport(definition)).toBe(definition);
});

test('methods get the type that open returns', () => {
  defineExport({
    size: 1,
    open: async () => ({ reads: 0 }),
    read(_offset, length, handle) {
      expectTypeOf(handle).toEqualTypeOf<{ reads: number }>();
      return new Uint8Array(length);
    },
  });
  const plain = defineExport({ size: 1, read: (_offset, length) => new Uint8Array(length) });
  expectTypeOf(plain).toEqualTypeOf<ExportDefinition<undefined>>();
});
