/**
 * Has V8 compile the functions of the data path as soon as they have run a little. By its own measure, that of long-lived programs,
 * a copy of 1 GiB is half over by then: nbdcopy into a server that has just begun, `--cache none`, in relation to nbdkit: 0.83 by
 * default, 0.94 so; out of memory over TCP 0.97 and 1.07. A server that has run for a while is as fast either way. Budgets of 1000 to
 * 8000 gained as much; with 16 000 half of it (four connections, 2 cores, Node 20.20, Linux 6.18, 2026-11-27).
 *
 * To be called behind all that is loaded for the start, which would be compiled, too: 80 ms of a start of 230. Threads that start
 * behind it do so beside the main one, 8 ms later (23 and 31).
 *
 * Later versions know no such flag, and gained nothing from theirs: Node 24 has a compiler in between (Maglev), and is 1.15
 * of nbdkit without.
 */
import { setFlagsFromString } from 'node:v8';

/** Bytecodes that a function runs before it is compiled; V8 11.3 has 67 584. */
const FLAG = '--interrupt-budget=4000';

/** `version`: of V8. For the whole process, its worker threads included. */
export function optimizeEarly(version = process.versions.v8, setFlag = setFlagsFromString): void {
  if (version.startsWith('11.')) {
    setFlag(FLAG);
  }
}
