/** What people read in the log when something below the protocol failed. */
import { expect, test } from 'vitest';
import { BackendError } from '../../src/plugins/backend-error.ts';
import type { LinuxErrno } from '../../src/protocol/errno.ts';

test('names what was attempted, where, and why it failed', () => {
  const error = new BackendError(28 as LinuxErrno, 'pwrite', 4096, 512);
  expect(error.message).toBe('pwrite of 512 bytes at 4096 failed with ENOSPC');
  expect(error).toMatchObject({
    name: 'BackendError',
    errno: 28,
    operation: 'pwrite',
    offset: 4096,
    length: 512,
  });
});

// Errnos that libuv has no name for: a full quota, an XFS or ext4 with wrong checksums, an NFS file gone.
test.each([122, 74, 117, 116])('has a short word for errno %d, too', (errno) => {
  const { message } = new BackendError(errno as LinuxErrno, 'fdatasync');
  expect(message).toMatch(/failed with (E[A-Z]+|errno \d+)$/);
});
