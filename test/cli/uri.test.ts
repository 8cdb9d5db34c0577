/** URIs that clients take apart again. */
import fc from 'fast-check';
import { expect, test } from 'vitest';
import { tcpUri, unixUri } from '../../src/cli/uri.ts';

test.each([
  ['', '/run/nbd.sock', 'nbd+unix:///?socket=/run/nbd.sock'],
  ['disk', '/run/nbd.sock', 'nbd+unix:///disk?socket=/run/nbd.sock'],
  ['a b', '/tmp/my socket', 'nbd+unix:///a%20b?socket=/tmp/my%20socket'],
  ['vm/disk', '/s', 'nbd+unix:///vm/disk?socket=/s'],
  ['100%', '/50%25', 'nbd+unix:///100%25?socket=/50%2525'],
  ['a?b#c&d=e+f', '/x?y#z&w+v', 'nbd+unix:///a%3Fb%23c%26d%3De%2Bf?socket=/x%3Fy%23z%26w%2Bv'],
  ['größe', '/ü', 'nbd+unix:///gr%C3%B6%C3%9Fe?socket=/%C3%BC'],
])('export %j on the socket %j', (exportName, path, uri) => {
  expect(unixUri(exportName, path, false)).toBe(uri);
  expect(unixUri(exportName, path, true)).toBe(uri.replace('nbd+unix:', 'nbds+unix:'));
});

test.each([
  ['', '127.0.0.1', 10809, 'nbd://127.0.0.1:10809/'],
  ['disk', '127.0.0.1', 1, 'nbd://127.0.0.1:1/disk'],
  ['x', '::1', 10809, 'nbd://[::1]:10809/x'],
  ['a b/ü%', '::', 65535, 'nbd://[::]:65535/a%20b/%C3%BC%25'],
])('export %j at %s port %d', (exportName, address, port, uri) => {
  expect(tcpUri(exportName, address, port, false)).toBe(uri);
  expect(tcpUri(exportName, address, port, true)).toBe(uri.replace('nbd:', 'nbds:'));
});

test('every name and path comes back from a decoder that is not ours', () => {
  const text = fc.string({ unit: 'grapheme' }).filter((candidate) => candidate.isWellFormed());
  fc.assert(
    fc.property(text, text, (exportName, path) => {
      const [beforeQuery = '', query = ''] = unixUri(exportName, `/${path}`, false).split('?');
      expect(decodeURIComponent(beforeQuery.replace('nbd+unix:///', ''))).toBe(exportName);
      expect(new URLSearchParams(query).get('socket')).toBe(`/${path}`);
      expect(`${beforeQuery}${query}`).toMatch(/^[\x21-\x7e]*$/);
    }),
  );
});
