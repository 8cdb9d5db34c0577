import { createCipheriv, createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { open, stat } from 'node:fs/promises';
import { run } from './command.ts';
import { eventually } from './polling.ts';
import { PYTHON } from './python.ts';
import { MiB } from './storage.ts';

export interface Range {
  readonly offset: number;
  readonly length: number;
}

/** One range of a file as SEEK_DATA and SEEK_HOLE report it. */
export interface FileExtent extends Range {
  readonly hole: boolean;
}

/** Bytes that look random, are never all zero, and are the same for the same seed. */
export function noise(length: number, seed: number): Buffer {
  const key = Buffer.alloc(16);
  key.writeUInt32BE(seed, 0);
  return createCipheriv('aes-128-ctr', key, Buffer.alloc(16)).update(Buffer.alloc(length));
}

/** Makes a sparse file with noise in the given ranges and holes everywhere else. */
export async function createImage(path: string, size: number, data: readonly Range[] = []): Promise<void> {
  const file = await open(path, 'w');
  try {
    await file.truncate(size);
    for (const { offset, length } of data) {
      for (let done = 0; done < length; ) {
        const piece = noise(Math.min(4 * MiB, length - done), (offset + done) % 2 ** 32);
        await file.write(piece, 0, piece.length, offset + done);
        done += piece.length;
      }
    }
    await file.sync();
  } finally {
    await file.close();
  }
}

/** Makes a file of the given size without a hole in it. */
export async function createFullImage(path: string, size: number): Promise<void> {
  await createImage(path, size, [{ offset: 0, length: size }]);
}

export async function readRange(path: string, { offset, length }: Range): Promise<Buffer> {
  const file = await open(path, 'r');
  try {
    const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, offset);
    return buffer.subarray(0, bytesRead);
  } finally {
    await file.close();
  }
}

/** Fails unless the file has exactly these bytes at the offset. vitest's own comparison of large buffers takes minutes. */
export async function expectBytes(path: string, offset: number, expected: Buffer): Promise<void> {
  const found = await readRange(path, { offset, length: expected.length });
  if (found.equals(expected)) return;
  const index = expected.findIndex((byte, at) => byte !== found[at]);
  throw new Error(
    `${path} differs at ${offset + index}: expected ${expected[index]}, found ${found[index] ?? 'the end of the file'}`,
  );
}

/** Fails with the first differing byte unless both files have the same size and content. */
export async function expectSameContent(one: string, other: string): Promise<void> {
  await run(['cmp', one, other]);
}

export async function sha256(path: string): Promise<string> {
  const hash = createHash('sha256');
  for await (const piece of createReadStream(path, { highWaterMark: MiB })) hash.update(piece as Buffer);
  return hash.digest('hex');
}

export async function allocatedBytes(path: string): Promise<number> {
  return (await stat(path)).blocks * 512;
}

export interface Residency {
  readonly resident: number;
  readonly pages: number;
}

/** How much of a file is in the page cache, according to cachestats, the tool of Debian's package nocache. */
export async function residentPages(path: string): Promise<Residency> {
  const output = await run(['cachestats', path]);
  const [, resident, pages] = /pages in cache: (\d+)\/(\d+) /.exec(output) ?? [];
  if (resident === undefined) throw new Error(`cachestats printed this: ${output}`);
  return { resident: Number(resident), pages: Number(pages) };
}

/** Drops a file from the page cache, whoever put it there. */
export async function evict(path: string): Promise<void> {
  await run(['sync', path]);
  // Somebody else's read-ahead may still be under way, its pages locked.
  await eventually(`nothing of ${path} stays in the page cache`, async () => {
    await run(['dd', `if=${path}`, 'iflag=nocache', 'count=0', 'status=none']);
    return (await residentPages(path)).resident === 0 ? true : undefined;
  });
}

/** The oracle for block status: what lseek says about a file, asked by a program that is not ours. */
export async function fileExtents(path: string): Promise<FileExtent[]> {
  const script = `
import json, os, sys
fd = os.open(sys.argv[1], os.O_RDONLY)
size = os.fstat(fd).st_size
extents, offset = [], 0
while offset < size:
    try:
        data = os.lseek(fd, offset, os.SEEK_DATA)
    except OSError:
        data = size
    if data > offset:
        extents.append({'offset': offset, 'length': data - offset, 'hole': True})
    if data < size:
        hole = os.lseek(fd, data, os.SEEK_HOLE)
        extents.append({'offset': data, 'length': hole - data, 'hole': False})
        data = hole
    offset = data
print(json.dumps(extents))
`;
  return JSON.parse(await run([PYTHON, '-c', script, path])) as FileExtent[];
}
