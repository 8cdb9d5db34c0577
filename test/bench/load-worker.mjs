/** tsx does not reach into threads by itself: this brings it there. */
import { tsImport } from 'tsx/esm/api';

await tsImport('./load-worker.ts', import.meta.url);
