import fc from 'fast-check';
import { expect, test } from 'vitest';
import { encodeListedExport } from '../../../src/protocol/options/list.ts';
import { Cursor, digits, toHex } from '../bytes.ts';
import { decodeOptionReplies, OPT, REP } from '../naive-client.ts';

test('SERVER is the length of the name in bytes, the name, and the description as the rest', () => {
  expect(toHex(encodeListedExport({ name: 'é', description: 'hi' }))).toBe(
    digits('0003e889045565a9 00000003 00000002 00000008 00000002 c3a9 6869'),
  );
});

test('SERVER of the default export without description is a length of zero', () => {
  expect(toHex(encodeListedExport({ name: '', description: '' }))).toBe(
    digits('0003e889045565a9 00000003 00000002 00000004 00000000'),
  );
});

test('SERVER decodes with a naive client', () => {
  const text = fc.string({ unit: 'grapheme', maxLength: 40 }).filter((value) => !value.includes('\0'));
  fc.assert(
    fc.property(text, text, (name, description) => {
      const replies = decodeOptionReplies(encodeListedExport({ name, description }));
      expect(replies).toHaveLength(1);
      for (const { option, type, data } of replies) {
        const cursor = new Cursor(data);
        expect({ option, type }).toEqual({ option: OPT.LIST, type: REP.SERVER });
        expect(cursor.text(cursor.u32())).toBe(name);
        expect(cursor.text(cursor.rest)).toBe(description);
      }
    }),
  );
});
