/** Files of GnuTLS's psktool. */
import { describe, expect, test } from 'vitest';
import { parsePskFile } from '../../src/server/psk-file.ts';

const KEY = '00112233';

function parse(text: string): ReadonlyMap<string, Buffer> | string {
  return parsePskFile(Buffer.from(text));
}

test('has a key for each username', () => {
  expect(parse(`alice:${KEY}\nbob:FFee\n`)).toEqual(
    new Map([
      ['alice', Buffer.from(KEY, 'hex')],
      ['bob', Buffer.of(0xff, 0xee)],
    ]),
  );
});

test.each([
  ['without a newline at the end', `alice:${KEY}`],
  ['with empty lines', `\n\nalice:${KEY}\n\n`],
  ['from another system', `alice:${KEY}\r\n`],
  ['with the username in hexadecimal', `#616c696365:${KEY}\n`],
])('may be %s', (_, text) => {
  expect(parse(text)).toEqual(new Map([['alice', Buffer.from(KEY, 'hex')]]));
});

test('takes usernames with spaces, hashes and letters of every script', () => {
  expect([...(parse(`a b#c:${KEY}\nжук:${KEY}\n#613a62:${KEY}`) as Map<string, Buffer>).keys()]).toEqual([
    'a b#c',
    'жук',
    'a:b',
  ]);
});

describe('is refused', () => {
  test.each([
    ['empty', '', 'no key'],
    ['without a key', 'alice:\n', 'line 1 is not'],
    ['without a username', `:${KEY}\n`, 'line 1 is not'],
    ['with half a byte', `bob:${KEY}\nalice:123\n`, 'line 2 is not'],
    ['with a key that is not hexadecimal', 'alice:secret\n', 'line 1 is not'],
    ['with a third field', `alice:${KEY}:${KEY}\n`, 'line 1 is not'],
    ['with a comment', `# keys\nalice:${KEY}\n`, 'line 1 is not'],
    ['with a username that is not hexadecimal after all', `#xyz:${KEY}\n`, 'username in line 1'],
    ['with a username that OpenSSL refuses', `${'n'.repeat(129)}:${KEY}\n`, 'longer than 128 bytes'],
    ['with a key that OpenSSL refuses', `alice:${'00'.repeat(257)}\n`, 'longer than 256 bytes'],
    ['with a username twice', `alice:${KEY}\nalice:${KEY}\n`, 'line 2 has a username'],
  ])('%s', (_, text, reason) => {
    const refusal = parse(text);
    expect(refusal).toContain(reason);
    expect(refusal, 'no key in a message').not.toContain(KEY);
  });
});
