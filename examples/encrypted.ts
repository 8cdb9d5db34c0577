/**
 * A device that encrypts another one: AES-256-XTS with a sector's number as the tweak, as full-disk encryption
 * does (IEEE 1619; dm-crypt calls it aes-xts-plain64 with 4096-byte sectors). Sizes stay the same, and nothing tells
 * a sector that was tampered with from one that was not.
 *
 *     head -c 64 /dev/urandom > key
 *     nbd-serve plugin examples/encrypted.ts disk.img key
 */
import { createCipheriv, createDecipheriv } from 'node:crypto';
import { readFile } from 'node:fs/promises';
import { defineExport, type ExportDefinition, type PluginModuleContext } from 'nbd-serve';
import { fileDevice } from './file-device.ts';
import { RangeLock } from './range-lock.ts';

const CIPHER = 'aes-256-xts';
const KEY_BYTES = 64;
const SECTOR_BYTES = 4096;

/** `inner` with its contents encrypted; `key` has 64 bytes, of which the halves differ. */
export function encrypt<Handle>(inner: ExportDefinition<Handle>, key: Uint8Array): ExportDefinition<Handle> {
  const { size, open, write, flush, close, unload } = inner;
  if (key.length !== KEY_BYTES) {
    throw new RangeError(`The key has ${KEY_BYTES} bytes, not ${key.length}`);
  }
  if (size % SECTOR_BYTES !== 0) {
    throw new RangeError(`What is encrypted is a multiple of ${SECTOR_BYTES} bytes long, not ${size}`);
  }
  if ((inner.blockSize?.minimum ?? 1) > SECTOR_BYTES) {
    throw new RangeError(`What is encrypted must take reads and writes of ${SECTOR_BYTES} bytes`);
  }
  // A sector that is half old and half new decrypts to rubbish, also where nobody writes.
  const lock = new RangeLock();

  async function readSectors(start: number, end: number, handle: Handle): Promise<Uint8Array> {
    const data = await inner.read(start, end - start, handle);
    if (data.length !== end - start) {
      throw new RangeError(`${data.length} bytes came in place of ${end - start}`);
    }
    return eachSector(data, start, (tweak) => createDecipheriv(CIPHER, key, tweak));
  }

  function encryptSectors(data: Uint8Array, start: number): Uint8Array {
    return eachSector(data, start, (tweak) => createCipheriv(CIPHER, key, tweak));
  }

  return defineExport<Handle>({
    size,
    blockSize: { preferred: SECTOR_BYTES },
    description: inner.description,
    isRotational: inner.isRotational,
    canMultiConn: inner.canMultiConn,
    read(offset, length, handle) {
      const [start, end] = sectorsAround(offset, length);
      return lock.run(start, end, false, async () => {
        const data = await readSectors(start, end, handle);
        return data.subarray(offset - start, offset - start + length);
      });
    },
    ...(write && {
      write(offset: number, data: Uint8Array, handle: Handle) {
        const [start, end] = sectorsAround(offset, data.length);
        return lock.run(start, end, true, async () => {
          const sectors = new Uint8Array(end - start);
          for (const sector of new Set([start, end - SECTOR_BYTES])) {
            const isWhole = sector >= offset && sector + SECTOR_BYTES <= offset + data.length;
            if (!isWhole) {
              sectors.set(await readSectors(sector, sector + SECTOR_BYTES, handle), sector - start);
            }
          }
          sectors.set(data, offset - start);
          await write.call(inner, start, encryptSectors(sectors, start), handle);
        });
      },
    }),
    ...(flush && { flush: (handle: Handle) => flush.call(inner, handle) }),
    ...(open && { open: () => open.call(inner) }),
    ...(close && { close: (handle: Handle) => close.call(inner, handle) }),
    ...(unload && { unload: () => unload.call(inner) }),
  });
}

interface SectorCipher {
  update(data: Uint8Array): Uint8Array;
}

function eachSector(
  data: Uint8Array,
  start: number,
  createCipher: (tweak: Uint8Array) => SectorCipher,
): Uint8Array {
  const result = new Uint8Array(data.length);
  const tweak = Buffer.alloc(16);
  for (let done = 0; done < data.length; done += SECTOR_BYTES) {
    tweak.writeBigUInt64LE(BigInt((start + done) / SECTOR_BYTES));
    result.set(createCipher(tweak).update(data.subarray(done, done + SECTOR_BYTES)), done);
  }
  return result;
}

function sectorsAround(offset: number, length: number): [start: number, end: number] {
  return [
    Math.floor(offset / SECTOR_BYTES) * SECTOR_BYTES,
    Math.ceil((offset + length) / SECTOR_BYTES) * SECTOR_BYTES,
  ];
}

export default async ([path, keyPath]: readonly string[], { isReadOnly }: PluginModuleContext) => {
  if (path === undefined || keyPath === undefined) {
    throw new Error('Give a file and a key file');
  }
  return encrypt(await fileDevice(path, isReadOnly), await readFile(keyPath));
};
