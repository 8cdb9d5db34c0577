/** Whether something is a definition, as far as can be told without calling it. Every error is one line. */
import { inspect } from 'node:util';
import { EXPORT_BYTES_MAX, PAYLOAD_BYTES_MAX } from '../../limits.ts';
import { NBD_STRING_BYTES_MAX } from '../../protocol/constants.ts';
import type { BlockSize } from '../../protocol/export-info.ts';
import type { ExportBlockSize, ExportDefinition } from './definition.ts';

const OPTIONAL_METHODS = [
  'open',
  'write',
  'flush',
  'trim',
  'zero',
  'cache',
  'extents',
  'close',
  'unload',
] as const;

const FLAGS = ['isRotational', 'canMultiConn'] as const;

/** Everything that an export may say. */
const KNOWN: ReadonlySet<string> = new Set([
  ...['size', 'description', 'blockSize', 'read'],
  ...OPTIONAL_METHODS,
  ...FLAGS,
]);

/** Methods that have nothing to work on in a device that cannot be written. */
const WRITE_METHODS = ['flush', 'trim', 'zero'] as const;

/** Bounds of the specification ("Size constraints" in proto.md). */
const MINIMUM_BLOCK_BYTES_MAX = 65_536;
const PREFERRED_BLOCK_BYTES_MIN = 512;
const PREFERRED_BLOCK_BYTES_DEFAULT = 4096;

type Unchecked = Readonly<Record<string, unknown>>;

/** Throws a TypeError or a RangeError that names what is wrong. */
export function assertDefinition(value: unknown): asserts value is ExportDefinition<unknown> {
  if (typeof value !== 'object' || value === null) {
    throw new TypeError(`An export is an object with size and read, not ${show(value)}`);
  }
  const definition = value as Unchecked;
  assertSize(definition['size']);
  if (typeof definition['read'] !== 'function') {
    throw new TypeError(`An export needs a method read(offset, length), and has ${show(definition['read'])}`);
  }
  // A misspelt "write" would make a device that cannot be written. What a class has beside is its own.
  const unknown = Object.keys(definition).find(
    (name) => !KNOWN.has(name) && typeof definition[name] === 'function',
  );
  if (unknown !== undefined) {
    throw new TypeError(
      `An export has no method "${unknown}"; there are ${OPTIONAL_METHODS.join(', ')} and read`,
    );
  }
  for (const name of OPTIONAL_METHODS) {
    const method = definition[name];
    if (method !== undefined && typeof method !== 'function') {
      throw new TypeError(`"${name}" of an export is a method or left out, not ${show(method)}`);
    }
  }
  const useless = WRITE_METHODS.find((name) => definition[name] !== undefined);
  if (definition['write'] === undefined && useless !== undefined) {
    throw new TypeError(`An export with "${useless}" needs a method write(offset, data), too`);
  }
  for (const name of FLAGS) {
    const flag = definition[name];
    if (flag !== undefined && typeof flag !== 'boolean') {
      throw new TypeError(`"${name}" of an export is true, false or left out, not ${show(flag)}`);
    }
  }
  assertWireString('description', definition['description']);
  assertBlockSize(definition['blockSize'], definition['size'] as number);
}

/** The block size with what it leaves out. */
export function completeBlockSize({ minimum = 1, preferred }: ExportBlockSize = {}): BlockSize {
  return { minimum, preferred: preferred ?? Math.max(minimum, PREFERRED_BLOCK_BYTES_DEFAULT) };
}

function assertSize(size: unknown): void {
  if (typeof size !== 'number') {
    throw new TypeError(`"size" of an export is a number of bytes, not ${show(size)}`);
  }
  if (!Number.isSafeInteger(size) || size < 0) {
    throw new RangeError(
      `"size" of an export is a whole number from 0 to ${EXPORT_BYTES_MAX}, not ${show(size)}`,
    );
  }
}

/** A text that fits the wire (proto.md: 4096 bytes of UTF-8 without NUL), or nothing. */
export function assertWireString(name: string, text: unknown): void {
  if (text === undefined) {
    return;
  }
  if (typeof text !== 'string') {
    throw new TypeError(`"${name}" of an export is a text, not ${show(text)}`);
  }
  if (Buffer.byteLength(text) > NBD_STRING_BYTES_MAX || text.includes('\0')) {
    throw new RangeError(
      `"${name}" of an export has at most ${NBD_STRING_BYTES_MAX} bytes, and no NUL among them`,
    );
  }
}

function assertBlockSize(value: unknown, size: number): void {
  if (value === undefined) {
    return;
  }
  if (typeof value !== 'object' || value === null) {
    throw new TypeError(`"blockSize" of an export is an object or left out, not ${show(value)}`);
  }
  const { minimum, preferred } = completeBlockSize(value);
  if (!isPowerOfTwo(minimum) || minimum > MINIMUM_BLOCK_BYTES_MAX) {
    throw new RangeError(
      `"blockSize.minimum" is a power of two from 1 to ${MINIMUM_BLOCK_BYTES_MAX}, not ${show(minimum)}`,
    );
  }
  const least = Math.max(minimum, PREFERRED_BLOCK_BYTES_MIN);
  if (!isPowerOfTwo(preferred) || preferred < least || preferred > PAYLOAD_BYTES_MAX) {
    throw new RangeError(
      `"blockSize.preferred" is a power of two from ${least} to ${PAYLOAD_BYTES_MAX}, not ${show(preferred)}`,
    );
  }
  if (size % minimum !== 0) {
    throw new RangeError(`"size" of an export is a multiple of blockSize.minimum (${minimum}), not ${size}`);
  }
}

function isPowerOfTwo(value: unknown): boolean {
  return (
    typeof value === 'number' &&
    Number.isSafeInteger(value) &&
    value > 0 &&
    Number.isInteger(Math.log2(value))
  );
}

/** A value in a few words. */
function show(value: unknown): string {
  const text = inspect(value, { depth: 0, breakLength: Number.POSITIVE_INFINITY, maxStringLength: 40 });
  return text.replaceAll(/\s+/g, ' ').slice(0, 80);
}
