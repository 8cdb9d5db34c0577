/** Extents as `base:allocation` tells them (proto.md, "Metadata querying"). */
import type { Extent } from '../plugins/plugin.ts';
import { NBD_STATE_HOLE, NBD_STATE_ZERO } from '../protocol/constants.ts';
import type { StatusExtent } from '../protocol/reply.ts';

export function allocationStatus({ length, isHole, isZero }: Extent): StatusExtent {
  return { length, status: (isHole ? NBD_STATE_HOLE : 0) | (isZero ? NBD_STATE_ZERO : 0) };
}
