import { describe, expect, test } from 'vitest';
import { Input } from '../../src/protocol/input.ts';
import { Transmission } from '../../src/protocol/transmission.ts';
import { hex, join, pattern, toHex } from './bytes.ts';
import { DISK, MIB } from './exports.ts';
import { CMD, request, write } from './naive-client.ts';

function begin(info = DISK): { input: Input; transmission: Transmission } {
  const input = new Input(32);
  return {
    input,
    transmission: new Transmission(input, { info, replyForm: 'simple', metaContexts: [] }),
  };
}

/** Advances to the next step, as the session does. */
function stepOf(transmission: Transmission): string {
  for (let count = 0; count < 100; count += 1) {
    const step = transmission.advance();
    if (step !== undefined) return step;
  }
  throw new Error('No step');
}

describe('transmission', () => {
  test('hands out a WRITE whose data has arrived without copying it', () => {
    const { input, transmission } = begin();
    const bytes = join(write(512, pattern(100)), hex('ff'));
    input.receive(bytes, bytes.length);
    expect(stepOf(transmission)).toBe('request');
    expect(transmission.payload).toBe(bytes);
    expect(transmission.payloadStart).toBe(28);
    expect(transmission.isPayloadBorrowed).toBe(true);
    expect(input.available).toBe(1);
  });

  test('takes note of data that was received where it belongs', () => {
    const { input, transmission } = begin();
    const bytes = write(512, pattern(100));
    input.receive(bytes, 60);
    expect(transmission.payloadMissing).toBe(0);
    expect(stepOf(transmission)).toBe('payload');
    const room = new Uint8Array(110);
    transmission.providePayload(room, 10);
    expect(stepOf(transmission)).toBe('need-input');
    expect([transmission.payloadMissing, transmission.payloadPosition]).toEqual([68, 42]);
    room.set(pattern(100).subarray(32, 90), 42);
    transmission.payloadReceived(58);
    expect(transmission.payloadMissing).toBe(10);
    input.receive(bytes.subarray(118), 10);
    expect(stepOf(transmission)).toBe('request');
    expect(transmission.payloadMissing).toBe(0);
    expect(toHex(room.subarray(10))).toBe(toHex(pattern(100)));
  });

  test('hands out a WRITE whose last byte is the last that has arrived without copying it', () => {
    const { input, transmission } = begin();
    const bytes = write(512, pattern(100));
    input.receive(bytes, bytes.length);
    expect(stepOf(transmission)).toBe('request');
    expect(transmission.isPayloadBorrowed).toBe(true);
    expect(stepOf(transmission)).toBe('need-input');
  });

  test('asks for room when the data of a WRITE has not all arrived, and fills it from its start on', () => {
    const { input, transmission } = begin();
    const bytes = write(512, pattern(100));
    input.receive(bytes, 60);
    expect(stepOf(transmission)).toBe('payload');
    expect(stepOf(transmission)).toBe('payload');
    expect(transmission.request.length).toBe(100);
    const room = new Uint8Array(120);
    transmission.providePayload(room, 10);
    expect(stepOf(transmission)).toBe('need-input');
    input.receive(bytes.subarray(60), 68);
    expect(stepOf(transmission)).toBe('request');
    expect(transmission.payload).toBe(room);
    expect(transmission.isPayloadBorrowed).toBe(false);
    expect(toHex(room)).toBe(`${'00'.repeat(10)}${toHex(pattern(100))}${'00'.repeat(10)}`);
  });

  test('decides on a WRITE from its header: a refused payload needs no room and is skipped', () => {
    const { input, transmission } = begin({ ...DISK, isReadOnly: true });
    const header = request({ type: CMD.WRITE, length: 100 });
    input.receive(header, 28);
    expect(stepOf(transmission)).toBe('need-input');
    input.receive(pattern(60), 60);
    expect(stepOf(transmission)).toBe('need-input');
    input.receive(pattern(41), 41);
    expect(stepOf(transmission)).toBe('refused');
    expect(transmission.refusal?.errno).toBe(1);
    expect(input.available).toBe(1);
  });

  test('only WRITE has a payload, whatever the length of another command says', () => {
    const { input, transmission } = begin();
    for (const type of [0, 3, 4, 5, 6, 7, 8, 0xffff]) {
      const bytes = join(request({ type, length: 50 }), request({ type: CMD.READ, cookie: 9n, length: 1 }));
      input.receive(bytes, bytes.length);
      expect(['request', 'refused']).toContain(stepOf(transmission));
      expect(stepOf(transmission)).toBe('request');
      expect(transmission.request.cookieLow).toBe(9);
      expect(stepOf(transmission)).toBe('need-input');
    }
  });

  test('a WRITE of no bytes is a request, a refused one is refused at once', () => {
    const { input, transmission } = begin();
    const bytes = join(request({ type: CMD.WRITE }), request({ type: CMD.WRITE, offset: DISK.size + 1 }));
    input.receive(bytes, bytes.length);
    expect(stepOf(transmission)).toBe('request');
    expect(stepOf(transmission)).toBe('refused');
    expect(stepOf(transmission)).toBe('need-input');
  });

  test('DISC is final and is not judged: its fields and flags do not matter', () => {
    const { input, transmission } = begin();
    const bytes = join(
      request({ type: CMD.DISC, flags: 0xffff, offset: 1, length: 7 }),
      write(0, pattern(1)),
    );
    input.receive(bytes, bytes.length);
    expect(stepOf(transmission)).toBe('disconnect');
    expect(stepOf(transmission)).toBe('disconnect');
  });

  test('a wrong request magic is a violation, finally', () => {
    const { input, transmission } = begin();
    const bytes = join(hex('12560953'), request({ type: CMD.READ }));
    input.receive(bytes, bytes.length);
    expect(stepOf(transmission)).toBe('violation');
    expect(stepOf(transmission)).toBe('violation');
    expect(transmission.violation?.code).toBe('ERR_NBD_BAD_MAGIC');
  });

  test('a wrong request magic is a violation before its header is whole', () => {
    const { input, transmission } = begin();
    input.receive(hex('256095'), 3);
    expect(stepOf(transmission)).toBe('need-input');
    input.receive(hex('14'), 1);
    expect(stepOf(transmission)).toBe('violation');
  });

  test('a shutdown refuses requests with ESHUTDOWN and skips payloads, but DISC still ends the session', () => {
    const { input, transmission } = begin();
    transmission.shutDown();
    const bytes = join(write(0, pattern(9)), request({ type: CMD.FLUSH }), request({ type: CMD.DISC }));
    input.receive(bytes, bytes.length);
    expect([stepOf(transmission), transmission.refusal?.errno]).toEqual(['refused', 108]);
    expect([stepOf(transmission), transmission.refusal?.errno]).toEqual(['refused', 108]);
    expect(stepOf(transmission)).toBe('disconnect');
  });

  test('a WRITE whose header was accepted before the shutdown is still executed', () => {
    const { input, transmission } = begin();
    const bytes = write(0, pattern(9));
    input.receive(bytes, 30);
    expect(stepOf(transmission)).toBe('payload');
    transmission.shutDown();
    transmission.providePayload(new Uint8Array(9), 0);
    expect(stepOf(transmission)).toBe('need-input');
    input.receive(bytes.subarray(30), 7);
    expect(stepOf(transmission)).toBe('request');
  });

  test('never asks for more room than the largest payload, however large the export', () => {
    const { input, transmission } = begin({ ...DISK, size: 2 ** 40 });
    input.receive(request({ type: CMD.WRITE, length: 32 * MIB + 1 }), 28);
    expect(stepOf(transmission)).toBe('need-input');
  });
});
