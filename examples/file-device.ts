/** A file as a device, with nothing but node:fs: what the encrypted device lies on. */
import { open } from 'node:fs/promises';
import { defineExport, ExportError } from 'nbd-serve';

/** A regular file that exists; it is opened for writing unless `isReadOnly`. */
export async function fileDevice(path: string, isReadOnly: boolean) {
  const file = await open(path, isReadOnly ? 'r' : 'r+');
  const { size } = await file.stat();
  return defineExport({
    size,
    async read(offset, length) {
      const data = new Uint8Array(length);
      for (let done = 0; done < length; ) {
        const { bytesRead } = await file.read(data, done, length - done, offset + done);
        if (bytesRead === 0) {
          throw new ExportError('EIO', `"${path}" has become shorter`);
        }
        done += bytesRead;
      }
      return data;
    },
    async write(offset, data) {
      for (let done = 0; done < data.length; ) {
        const { bytesWritten } = await file.write(data, done, data.length - done, offset + done);
        done += bytesWritten;
      }
    },
    flush: () => file.datasync(),
    unload: () => file.close(),
  });
}
