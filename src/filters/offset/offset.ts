/** `offset`: a part of the export in place of the whole. */
import { EXPORT_BYTES_MAX } from '../../limits.ts';
import { formatSize } from '../../units/size.ts';
import { defineFilter } from '../filter.ts';
import { FilterError } from '../filter-error.ts';
import { size } from '../options.ts';
import { assertRange, RangePlugin } from './range-plugin.ts';

export const offsetFilter = defineFilter({
  name: 'offset',
  usage: 'offset=SIZE[,range=SIZE]',
  summary: 'serve what begins at offset, to the end or as long as range',
  options: { offset: size(0, EXPORT_BYTES_MAX), range: size(1, EXPORT_BYTES_MAX) },
  firstOption: 'offset',
  prepare({ offset, range }) {
    if (offset === undefined && range === undefined) {
      throw new FilterError('Filter "offset" needs offset=SIZE or range=SIZE');
    }
    return {
      open: async (inner) => {
        const begin = offset ?? 0;
        const inside = { offset: begin, length: range ?? Math.max(0, inner.info.size - begin) };
        const length = range === undefined ? '' : `,range=${formatSize(range)}`;
        assertRange(inner, inside, `Filter "offset": offset=${formatSize(begin)}${length}`);
        return new RangePlugin(inner, inside);
      },
    };
  },
});
