import fc from 'fast-check';
import { expect, test } from 'vitest';
import { transmissionFlags } from '../../src/protocol/export-info.ts';
import { DISK, DISK_FLAGS_EXTENDED, DISK_FLAGS_SIMPLE, DISK_FLAGS_STRUCTURED } from './exports.ts';

const NOTHING = {
  ...DISK,
  canFlush: false,
  canFua: false,
  canTrim: false,
  canZero: false,
  canFastZero: false,
  canCache: false,
  canMultiConn: false,
};

test('HAS_FLAGS MUST always be set', () => {
  expect(transmissionFlags(NOTHING, 'simple', false)).toBe(0x0001);
});

test('an export that can do everything has every flag', () => {
  expect(transmissionFlags(DISK, 'simple', false)).toBe(DISK_FLAGS_SIMPLE);
  expect(transmissionFlags(DISK, 'structured', true)).toBe(DISK_FLAGS_STRUCTURED);
  expect(transmissionFlags(DISK, 'extended', true)).toBe(DISK_FLAGS_EXTENDED);
});

test.each([
  ['isReadOnly', 0x0002],
  ['canFlush', 0x0004],
  ['canFua', 0x0008],
  ['isRotational', 0x0010],
  ['canTrim', 0x0020],
  ['canZero', 0x0040],
  ['canMultiConn', 0x0100],
  ['canCache', 0x0400],
])('%s is its own transmission flag', (capability, flag) => {
  expect(transmissionFlags({ ...NOTHING, [capability]: true }, 'simple', false)).toBe(0x0001 | flag);
});

test('SEND_FAST_ZERO MUST be 0 without SEND_WRITE_ZEROES', () => {
  expect(transmissionFlags({ ...NOTHING, canFastZero: true }, 'simple', false)).toBe(0x0001);
  expect(transmissionFlags({ ...NOTHING, canZero: true, canFastZero: true }, 'simple', false)).toBe(0x0841);
});

test('a read-only export advertises READ_ONLY and no write-type command', () => {
  expect(transmissionFlags({ ...DISK, isReadOnly: true }, 'structured', true)).toBe(0x058f);
});

test('flags that the specification reserves or that are not built MUST be 0', () => {
  const capabilities = fc.record({
    isReadOnly: fc.boolean(),
    isRotational: fc.boolean(),
    canFlush: fc.boolean(),
    canFua: fc.boolean(),
    canTrim: fc.boolean(),
    canZero: fc.boolean(),
    canFastZero: fc.boolean(),
    canCache: fc.boolean(),
    canMultiConn: fc.boolean(),
  });
  const form = fc.constantFrom('simple' as const, 'structured' as const, 'extended' as const);
  fc.assert(
    fc.property(capabilities, form, fc.boolean(), (capability, replyForm, hasMetaContexts) => {
      const flags = transmissionFlags({ ...DISK, ...capability }, replyForm, hasMetaContexts);
      // RESIZE (9) and bits 13 to 15.
      expect(flags & ~0x1dff).toBe(0);
      expect((flags & 0x0080) !== 0).toBe(replyForm !== 'simple');
      if (replyForm !== 'extended') expect(flags & 0x1000).toBe(0);
      if ((flags & 0x0040) === 0) expect(flags & 0x0800).toBe(0);
      if ((flags & 0x0002) !== 0) expect(flags & 0x0860).toBe(0);
    }),
  );
});

test('SEND_DF MUST be 0 without structured replies or extended headers and is 1 with them', () => {
  expect(transmissionFlags(DISK, 'simple', true) & 0x0080).toBe(0);
  expect(transmissionFlags(DISK, 'structured', true) & 0x0080).toBe(0x0080);
  expect(transmissionFlags(DISK, 'extended', true) & 0x0080).toBe(0x0080);
});

test('BLOCK_STATUS_PAYLOAD MUST be 0 without extended headers and SHOULD be 0 without contexts', () => {
  for (const form of ['simple', 'structured'] as const) {
    for (const hasMetaContexts of [false, true]) {
      expect(transmissionFlags(DISK, form, hasMetaContexts) & 0x1000).toBe(0);
    }
  }
  expect(transmissionFlags(DISK, 'extended', false) & 0x1000).toBe(0);
  expect(transmissionFlags(DISK, 'extended', true) & 0x1000).toBe(0x1000);
});
