import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { type LinuxErrno, toNbdErrno } from '../../src/protocol/errno.ts';

/** Only src/native/binding.ts mints these outside of tests. */
const linux = (errno: number): LinuxErrno => errno as LinuxErrno;
const PLAIN = { isDontFragment: false, isFastZero: false };

describe('Linux errno to error value', () => {
  test.each([
    ['EPERM', 1, 1],
    ['EACCES', 13, 1],
    ['EROFS', 30, 1],
    ['EIO', 5, 5],
    ['ENOMEM', 12, 12],
    ['ENOSPC', 28, 28],
    ['EDQUOT', 122, 28],
    ['EFBIG', 27, 28],
    ['EOVERFLOW without DF', 75, 22],
    ['EOPNOTSUPP without FAST_ZERO', 95, 22],
    ['ESHUTDOWN', 108, 108],
    ['EINVAL, which is our fault and not the client\u2019s', 22, 5],
    ['ENOENT', 2, 5],
    ['EAGAIN', 11, 5],
    ['EBADF', 9, 5],
    ['ESTALE', 116, 5],
    ['EREMOTEIO', 121, 5],
  ])('%s becomes the value that the table gives', (_, errno, expected) => {
    expect(toNbdErrno(linux(errno), PLAIN)).toBe(expected);
  });

  test('EOVERFLOW SHOULD NOT be sent except for a READ with DF', () => {
    expect(toNbdErrno(linux(75), { isDontFragment: true, isFastZero: false })).toBe(75);
    expect(toNbdErrno(linux(75), { isDontFragment: false, isFastZero: true })).toBe(22);
  });

  test('ENOTSUP SHOULD NOT be sent except for FAST_ZERO', () => {
    expect(toNbdErrno(linux(95), { isDontFragment: false, isFastZero: true })).toBe(95);
    expect(toNbdErrno(linux(95), { isDontFragment: true, isFastZero: false })).toBe(22);
  });

  test('nothing but the eight error values MUST go on the wire', () => {
    fc.assert(
      fc.property(fc.integer({ min: -10, max: 4096 }), fc.boolean(), fc.boolean(), (errno, df, zero) => {
        const value = toNbdErrno(linux(errno), { isDontFragment: df, isFastZero: zero });
        expect([1, 5, 12, 22, 28, 75, 95, 108]).toContain(value);
      }),
    );
  });
});
