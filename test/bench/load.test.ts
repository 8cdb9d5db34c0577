import { expect, test } from 'vitest';
import { randomNumbers } from '../support/random.ts';
import { type LoadRequest, ReplyReader } from './load-client.ts';
import { parseMix, requestsOf } from './load-mix.ts';

const REQUESTS: readonly LoadRequest[] = [
  { type: 'read', offset: 0, length: 5 },
  { type: 'write', offset: 0, length: 7 },
];

function reply(slot: number, data = '', error = 0): Buffer {
  const header = Buffer.alloc(16);
  header.writeUInt32BE(0x67446698, 0);
  header.writeUInt32BE(error, 4);
  header.writeBigUInt64BE(BigInt(slot), 8);
  return Buffer.concat([header, Buffer.from(data)]);
}

test('replies are found however the stream is cut', () => {
  const stream = Buffer.concat([reply(1), reply(0, 'hello'), reply(0, 'again'), reply(1)]);
  for (const size of [1, 3, 16, 21, stream.length]) {
    const slots: number[] = [];
    const reader = new ReplyReader(REQUESTS, (slot) => slots.push(slot));
    for (let position = 0; position < stream.length; position += size) {
      reader.take(stream.subarray(position, position + size));
    }
    expect(slots).toEqual([1, 0, 0, 1]);
  }
});

test('an error, and an answer to nothing, are failures', () => {
  const reader = (): ReplyReader => new ReplyReader(REQUESTS, () => {});
  expect(() => reader().take(reply(1, '', 5))).toThrow('error');
  expect(() => reader().take(reply(2))).toThrow('not as asked');
});

test('a mix has its percentages, inside the export', () => {
  const next = requestsOf(parseMix('20/40/40'), 4096, 10 * 4096, randomNumbers(1));
  const requests = Array.from({ length: 10_000 }, next);
  const share = (type: string): number =>
    requests.filter((request) => request.type === type).length / requests.length;
  expect([share('read'), share('write'), share('trim')].map((each) => each.toFixed(1))).toEqual([
    '0.2',
    '0.4',
    '0.4',
  ]);
  expect(requests.every(({ offset, length }) => offset % 4096 === 0 && offset + length <= 10 * 4096)).toBe(
    true,
  );
});

test('percentages that are not all are refused', () => {
  expect(() => parseMix('80/10')).toThrow('percentages');
  expect(() => parseMix('80/10/20')).toThrow('percentages');
});
