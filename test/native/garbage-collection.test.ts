/** The collector runs while operations do: nothing that they need may go. */
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { cleanExit, runChild, temporaryFolder } from './support.ts';

test.each(['buffers', 'counts', 'windows', 'listener', 'churn'])(
  '%s survive the collector',
  async (scenario) => {
    const path = join(temporaryFolder(), 'file');
    const child = await runChild('garbage-collection-child.mjs', [scenario, path], ['--expose-gc']);
    expect(child).toMatchObject(cleanExit(`${scenario} done\n`));
  },
);
