import { run } from './command.ts';

/** Debian's own interpreter: another one in front of it in PATH would not find the package python3-libnbd. */
export const PYTHON = '/usr/bin/python3';

const PRELUDE = `
import errno, json, os, sys, nbd

uri = sys.argv[1]
arguments = sys.argv[2:]

def connect(uri=uri, strict=None, setup=None):
    h = nbd.NBD()
    h.set_uri_allow_local_file(True)
    if strict is not None:
        h.set_strict_mode(strict)
    if setup is not None:
        setup(h)
    h.connect_uri(uri)
    return h

def fails(number, call, *args, **kwargs):
    try:
        call(*args, **kwargs)
    except nbd.Error as error:
        assert error.errnum == number, f'expected {errno.errorcode[number]}, got {error}'
        return
    raise AssertionError(f'expected {errno.errorcode[number]}, but it succeeded')

def finish(h, cookies):
    cookies = set(cookies)
    order = []
    while cookies:
        h.poll(-1)
        for cookie in list(cookies):
            if h.aio_command_completed(cookie):
                cookies.remove(cookie)
                order.append(cookie)
    return order

def status(h, length, offset, flags=0, context=nbd.CONTEXT_BASE_ALLOCATION):
    """One block status command: the (length, status) pairs of its one context."""
    found = []
    def take(metacontext, start, entries, error):
        assert metacontext == context and start == offset, (metacontext, start)
        for index in range(0, len(entries), 2):
            found.append((entries[index], entries[index + 1]))
    h.block_status(length, offset, take, flags)
    return found

def extents(h, offset=0, end=None):
    """The whole map of an export, neighbours of the same kind merged: [offset, length, status]."""
    end = h.get_size() if end is None else end
    merged = []
    while offset < end:
        answer = status(h, min(end - offset, 2 ** 32 - 4096), offset)
        assert answer and all(length > 0 for length, _ in answer), answer
        for length, kind in answer:
            length = min(length, end - offset)
            if length <= 0:
                break
            if merged and merged[-1][2] == kind:
                merged[-1][1] += length
            else:
                merged.append([offset, length, kind])
            offset += length
    return merged
`;

/**
 * Runs a script against an export with libnbd's Python bindings. The script sees `connect()`, `fails()`,
 * `finish()`, `status()` and `extents()` beside the module `nbd`; what it prints is returned.
 */
export async function python(uri: string, script: string, args: readonly string[] = []): Promise<string> {
  return run([PYTHON, '-c', `${PRELUDE}\n${script}`, uri, ...args]);
}
