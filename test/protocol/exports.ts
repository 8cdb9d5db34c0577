/** The exports that the tests of the protocol serve. */
import type { ExportInfo } from '../../src/protocol/export-info.ts';

export const MIB = 1024 * 1024;

/** A disk that can do everything. */
export const DISK: ExportInfo = {
  name: 'disk',
  description: 'A disk',
  size: 16 * MIB,
  blockSize: { minimum: 1, preferred: 4096 },
  metaContexts: ['base:allocation'],
  isReadOnly: false,
  isRotational: false,
  canFlush: true,
  canFua: true,
  canTrim: true,
  canZero: true,
  canFastZero: true,
  canCache: true,
  canMultiConn: true,
};

/** DISK's transmission flags on a connection without structured replies, counted by hand from proto.md. */
export const DISK_FLAGS_SIMPLE = 0x0d6d;
/** The same with structured replies: SEND_DF comes on top. */
export const DISK_FLAGS_STRUCTURED = 0x0ded;
/** The same with extended headers and a meta context: BLOCK_STATUS_PAYLOAD comes on top. */
export const DISK_FLAGS_EXTENDED = 0x1ded;
