// Asks for a write lock on the file named first; prints what setlk and getlk answer.
import { openSync } from 'node:fs';
import { createRequire } from 'node:module';

const native = createRequire(import.meta.url)('../../build/Release/nbd_serve.node');
const fd = openSync(process.argv[2], 'r+');
process.stdout.write(`${native.ofd_setlk(fd, 1, 0, 0)} ${native.ofd_getlk(fd, 0, 0, 0)}\n`);
