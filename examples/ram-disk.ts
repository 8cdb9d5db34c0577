import { defineExport } from 'nbd-serve';

const disk = new Uint8Array(64 * 1024 * 1024);

export default defineExport({
  size: disk.length,
  read: (offset, length) => disk.subarray(offset, offset + length),
  write: (offset, data) => disk.set(data, offset),
});
