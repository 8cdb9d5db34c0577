// The start of a worker thread in TypeScript: the loader of the main thread is not inherited. The module is argv[2].
import { register } from 'tsx/esm/api';

register();
await import(process.argv[2]);
