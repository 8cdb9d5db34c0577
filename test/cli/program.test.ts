/** The command line as a whole: exit codes, and errors as one line on standard error before anything listens. */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { describe, expect, test } from 'vitest';
import { temporaryDirectory } from '../support/temporary-directory.ts';
import { nbdServe } from './captured-output.ts';

const ONE_LINE = /^[^\n]+\n$/;

test('--version prints the version of the package and nothing else', async () => {
  const { version } = JSON.parse(readFileSync(`${import.meta.dirname}/../../package.json`, 'utf8')) as {
    version: string;
  };
  expect(await nbdServe('--version')).toEqual({ code: 0, stdout: `${version}\n`, stderr: '' });
});

test.each([
  [['--help']],
  [['file', '--help']],
  [['cachestat', '--help']],
  [['tls-init', '--help']],
  [['tune', '--help']],
  [['directory', '--help']],
  [['completion', '--help']],
  [['help', 'file']],
])('%j explains on standard output and succeeds', async (words) => {
  const { code, stdout, stderr } = await nbdServe(...words);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  expect(stdout).toContain('Usage: nbd-serve');
});

test('without a command it explains itself and fails', async () => {
  const { code, stdout, stderr } = await nbdServe();
  expect(code).not.toBe(0);
  expect(stdout).toBe('');
  expect(stderr).toContain('Usage: nbd-serve');
});

describe('a wrong command line', () => {
  test.each<[string, string[], RegExp]>([
    ['a command that does not exist', ['frobnicate'], /unknown command 'frobnicate'/],
    ['an option that does not exist', ['file', 'x', '--zzz'], /unknown option '--zzz'/],
    ['no path', ['file'], /missing required argument 'path'/],
    ['two paths', ['file', 'x', 'y'], /too many arguments/],
    ['an option without its value', ['file', 'x', '--port'], /argument missing/],
    ['no file for cachestat', ['cachestat'], /missing required argument 'file'/],
    ['no file for tune', ['tune'], /missing required argument 'file'/],
    ['an option that tune does not have', ['tune', '.', '--frobnicate'], /unknown option '--frobnicate'/],
    ['a scratch file too small to tell anything', ['tune', '.', '--size', '64K'], /from 1048576 to/],
    ['a pattern that does not exist', ['tune', '.', '--pattern', 'zigzag'], /choices are sequential, random/],
    ['a list with a hole in it', ['tune', '.', '--windows', '1,,2'], /from 1 to 1024/],
    ['a list of sizes that are none', ['tune', '.', '--window-size', '1M,big'], /such as 512M/],
    ['no repeats', ['tune', '.', '--repeat', '0'], /from 1 to 100/],
    ['a port that is none', ['file', 'x', '-p', '65536'], /a whole number from 0 to 65535/],
    ['a negative port', ['file', 'x', '--port=-1'], /a whole number from 0 to 65535/],
    ['a size that is none', ['file', 'x', '--create', '1.5G'], /such as 512M/],
    ['a size beyond 2^53-1', ['file', 'x', '--create', '8P'], /from 0 to 9007199254740991/],
    ['no windows', ['file', 'x', '--cache', 'none', '--windows', '0'], /from 1 to 1024/],
    ['too many windows', ['file', 'x', '--cache', 'none', '--windows', '1025'], /from 1 to 1024/],
    ['a window below a page', ['file', 'x', '--cache', 'none', '--window-size', '4095'], /from 4096 to/],
    [
      'a mode that does not exist',
      ['file', 'x', '--cache', 'writeback'],
      /Allowed choices are default, none/,
    ],
    ['an advice that does not exist', ['file', 'x', '--fadvise', 'maybe'], /Allowed choices are normal/],
    ['a log level that does not exist', ['file', 'x', '--log-level', 'loud'], /Allowed choices are trace/],
    [
      'a log format that does not exist',
      ['file', 'x', '--log-format', 'xml'],
      /Allowed choices are json, pretty/,
    ],
    ['no directory', ['directory'], /missing required argument 'path'/],
    ['a file to create in a directory', ['directory', 'x', '--create', '1M'], /unknown option '--create'/],
    [
      'two reasons to end',
      ['file', 'x', '--run', 'true', '--exit-last'],
      /'--exit-last' cannot be used with option '--run <command>'/,
    ],
    ['no command behind --run', ['file', 'x', '--run'], /argument missing/],
    [
      'a pid file in no directory',
      ['file', 'x', '--pid-file', '/none/pid'],
      /pid file "\/none\/pid": ENOENT/,
    ],
    ['no shell to complete in', ['completion'], /missing required argument 'shell'/],
    ['a shell without completion', ['completion', 'tcsh'], /Allowed choices are bash, zsh, fish/],
    ['a deadline of nothing', ['file', 'x', '--handshake-timeout', '0'], /from 1 to 3600/],
    ['no thread at all', ['file', 'x', '--threads', '0'], /from 1 to 64/],
    ['too long a poll', ['file', 'x', '--busy-poll', '10001'], /from 0 to 10000/],
    ['no connections at all', ['file', 'x', '--max-connections', '0'], /from 1 to 1000000/],
    ['a name too long for the wire', ['file', 'x', '-e', 'n'.repeat(4097)], /at most 4096 bytes/],
    [
      'windows without the mode that has them',
      ['file', 'x', '--windows', '8'],
      /--windows needs --cache none/,
    ],
    [
      'a window size without that mode',
      ['file', 'x', '--window-size', '1M'],
      /--window-size needs --cache none/,
    ],
    [
      'sparing pages without that mode',
      ['file', 'x', '--keep-resident'],
      /--keep-resident needs --cache none/,
    ],
    [
      'a TLS mode that does not exist',
      ['file', 'x', '--tls', 'on'],
      /Allowed choices are off, allow, require/,
    ],
    [
      'certificates without TLS',
      ['file', 'x', '--tls-certificates', '.'],
      /need --tls allow or --tls require/,
    ],
    ['a key file with TLS off', ['file', 'x', '--tls', 'off', '--tls-psk', 'k'], /need --tls allow or/],
    ['verification without TLS', ['file', 'x', '--tls-verify-peer'], /need --tls allow or --tls require/],
    ['TLS without anything', ['file', 'x', '--tls', 'allow'], /--tls allow needs .*"nbd-serve tls-init DIR"/],
    ['TLS required without anything', ['file', 'x', '--tls', 'require'], /--tls require needs .*tls-init/],
    [
      'no CA to verify against',
      ['file', 'x', '--tls=allow', '--tls-psk=k', '--tls-verify-peer'],
      /ca-cert\.pem/,
    ],
    [
      'a missing directory',
      ['file', 'x', '--tls=allow', '--tls-certificates=/none'],
      /"\/none\/ca-cert\.pem": ENOENT/,
    ],
    ['a missing key file', ['file', 'x', '--tls=allow', '--tls-psk=/none'], /Cannot read "\/none": ENOENT/],
    ['no directory for tls-init', ['tls-init'], /missing required argument 'directory'/],
    ['a host that is none', ['tls-init', '/none', '--host', 'a b'], /a host name or an IP address/],
    ['no days', ['tls-init', '/none', '--days', '0'], /from 1 to 36500/],
    ['a username with a colon', ['tls-init', '/none', '--psk', 'a:b'], /without a colon/],
  ])('%s: one line, exit code 1', async (_, words, reason) => {
    const { code, stdout, stderr } = await nbdServe(...words);
    expect(code).toBe(1);
    expect(stdout).toBe('');
    expect(stderr).toMatch(ONE_LINE);
    expect(stderr).toMatch(reason);
  });

  test('a misspelt option gets a suggestion on a second line at most', async () => {
    const { code, stderr } = await nbdServe('file', 'x', '--read-onl');
    expect(code).toBe(1);
    expect(stderr.split('\n')).toEqual([
      "error: unknown option '--read-onl'",
      '(Did you mean --read-only?)',
      '',
    ]);
  });
});

describe('a file that cannot be served', () => {
  test('is refused in one line', async () => {
    const { code, stdout, stderr } = await nbdServe('file', '/nonexistent/disk.img', '-p', '0');
    expect({ code, stdout }).toEqual({ code: 1, stdout: '' });
    expect(stderr).toMatch(ONE_LINE);
    expect(stderr).toContain('"/nonexistent/disk.img"');
  });

  test('with a line break in its name is refused in one line, too', async () => {
    const { stderr } = await nbdServe('file', '/nonexistent/disk\nimage', '-p', '0');
    expect(stderr).toMatch(ONE_LINE);
  });

  test('leaves no socket behind', async () => {
    await using directory = await temporaryDirectory();
    const socket = directory.file('socket');
    const { code } = await nbdServe('file', directory.file('missing'), '-U', socket);
    expect(code).toBe(1);
    expect(existsSync(socket)).toBe(false);
  });
});

test('a socket that cannot be listened on ends the command in one line and lets go of the image', async () => {
  await using directory = await temporaryDirectory();
  const image = directory.file('image');
  const taken = directory.file('taken');
  writeFileSync(image, 'x');
  writeFileSync(taken, 'precious');
  for (const attempt of [1, 2]) {
    const { code, stdout, stderr } = await nbdServe('file', image, '-U', taken, '--log-level', 'silent');
    expect({ attempt, code, stdout }).toEqual({ attempt, code: 1, stdout: '' });
    expect(stderr).toMatch(ONE_LINE);
    expect(stderr).toContain('no socket');
  }
  expect(readFileSync(taken, 'utf8')).toBe('precious');
});
