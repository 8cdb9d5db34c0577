/**
 * The file of GnuTLS's psktool: a line `username:hexkey` for each client. As in GnuTLS, a username that begins
 * with `#` is written in hexadecimal.
 */

/** What OpenSSL 3 takes (PSK_MAX_IDENTITY_LEN, PSK_MAX_PSK_LEN); longer ones would fail in every handshake. */
export const PSK_USERNAME_BYTES_MAX = 128;
const PSK_KEY_BYTES_MAX = 256;

/** The keys by username, or what is wrong with the file. No key is ever part of a message. */
export function parsePskFile(bytes: Uint8Array): ReadonlyMap<string, Buffer> | string {
  const keys = new Map<string, Buffer>();
  const lines = Buffer.from(bytes).toString('utf8').split(/\r?\n/);
  for (const [index, line] of lines.entries()) {
    if (line === '') {
      continue;
    }
    const [, name = '', key = ''] = /^([^:]+):((?:[0-9a-f]{2})+)$/i.exec(line) ?? [];
    if (name === '') {
      return `line ${index + 1} is not "username:hexkey"`;
    }
    const username = decodeUsername(name);
    if (username === undefined || Buffer.byteLength(username) > PSK_USERNAME_BYTES_MAX) {
      return `the username in line ${index + 1} is malformed or longer than ${PSK_USERNAME_BYTES_MAX} bytes`;
    }
    if (keys.has(username)) {
      return `line ${index + 1} has a username that an earlier line has`;
    }
    if (key.length > 2 * PSK_KEY_BYTES_MAX) {
      return `the key in line ${index + 1} is longer than ${PSK_KEY_BYTES_MAX} bytes`;
    }
    keys.set(username, Buffer.from(key, 'hex'));
  }
  return keys.size === 0 ? 'there is no key in it' : keys;
}

function decodeUsername(text: string): string | undefined {
  if (!text.startsWith('#')) {
    return text;
  }
  const hex = text.slice(1);
  return /^(?:[0-9a-f]{2})+$/i.test(hex) ? Buffer.from(hex, 'hex').toString('utf8') : undefined;
}
