/** The newcomer's device: pasted from the README into a file, it runs. */
import { readFile, writeFile } from 'node:fs/promises';
import { expect, test } from 'vitest';
import { run } from '../support/command.ts';
import { createFullImage, expectSameContent } from '../support/image.ts';
import { startServer } from '../support/server.ts';
import { MiB } from '../support/storage.ts';
import { temporaryDirectory } from '../support/temporary-directory.ts';

test("the README's device is that of the examples, has ten lines at most, and takes a copy", async () => {
  const readme = await readFile('README.md', 'utf8');
  const [, device = ''] = /```ts\n(import \{ defineExport \}[\s\S]*?)```/.exec(readme) ?? [];
  expect(device, 'README.md shows examples/ram-disk.ts').toBe(await readFile('examples/ram-disk.ts', 'utf8'));
  expect(device.trimEnd().split('\n').length).toBeLessThanOrEqual(10);
  await using directory = await temporaryDirectory();
  const [module, image, copy] = [
    directory.file('my-device.ts'),
    directory.file('image'),
    directory.file('copy'),
  ];
  await writeFile(module, device);
  await createFullImage(image, 64 * MiB);
  await using server = await startServer(['plugin', module]);
  await run(['nbdcopy', image, server.uri]);
  await run(['nbdcopy', server.uri, copy]);
  await expectSameContent(image, copy);
});
