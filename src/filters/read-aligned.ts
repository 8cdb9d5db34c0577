/** Reads on behalf of a filter. */
import type { Handle, PluginInfo } from '../plugins/plugin.ts';

/** Bytes of a range inside the export, read in whole blocks where it knows no smaller ones. */
export async function readAligned(
  handle: Handle,
  { size, blockSize }: Pick<PluginInfo, 'size' | 'blockSize'>,
  offset: number,
  length: number,
): Promise<Uint8Array> {
  const { minimum } = blockSize;
  const begin = offset - (offset % minimum);
  const end = Math.min(Math.ceil((offset + length) / minimum) * minimum, size);
  const bytes = new Uint8Array(end - begin);
  await handle.read(bytes, 0, bytes.length, begin);
  return bytes.subarray(offset - begin, offset - begin + length);
}
