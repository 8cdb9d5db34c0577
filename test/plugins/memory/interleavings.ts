/**
 * Runs code that shares memory through Atomics in every possible order of its steps. A step is one call of
 * Atomics with the code up to the next one. The code is the real one: while a scenario is explored, the global
 * Atomics are these, and the memory is a model that can be copied and put back.
 *
 * A thread cannot be stopped in the middle of a function; it is run again from its start instead, with the
 * answers that it got before, up to its next step. So a thread must be a function that does the same whenever
 * it gets the same answers. Orders that lead to the same memory and the same answers are followed once.
 */

/** What a thread does; its result must be JSON. */
export type Body = () => unknown;

export interface Outcome {
  /** Of each thread. */
  readonly results: readonly unknown[];
  /** Runs code on the memory as it is at the end. */
  inspect<T>(body: () => T): T;
}

export interface Exploration {
  /** Different states of the memory and the threads. */
  readonly stateCount: number;
  /** Different ends. */
  readonly endCount: number;
}

interface ThreadState {
  readonly answers: readonly number[];
  readonly isDone: boolean;
  readonly result: unknown;
  /** Changes that it has made itself. */
  readonly changeCount: number;
  /** Changes by others when it began, or went on after a pause. */
  readonly since: number;
  /** In `pause`: it goes on when others have made more changes than this. */
  readonly pausedAt: number | undefined;
  /** In Atomics.wait: the cell. */
  readonly asleepOn: number | undefined;
}

interface State {
  readonly cells: readonly number[];
  readonly threads: readonly ThreadState[];
  /** Changes of the memory so far. */
  readonly changeCount: number;
  /** The thread that made the last step, and how often one was interrupted that could have gone on. */
  readonly running: number | undefined;
  readonly interruptionCount: number;
}

class Yielded extends Error {}

const FRESH: ThreadState = {
  answers: [],
  isDone: false,
  result: undefined,
  changeCount: 0,
  since: 0,
  pausedAt: undefined,
  asleepOn: undefined,
};

/** What the threads call in place of Atomics, and how one thread goes a step further. */
class Machine {
  cells: number[] = [];
  changeCount = 0;
  /** Buffers that are changed without a step. */
  readonly quiet = new Set<object>();
  readonly #bufferNumbers = new Map<object, number>();
  readonly #cellNumbers = new Map<number, number>();
  #answers: number[] = [];
  #position = 0;
  /** Undefined: nothing yields, as in a setup. */
  #stepsLeft: number | undefined;
  #asleepOn: number | undefined;
  #isPaused = false;
  #woken: number | undefined;

  /** Goes on as if the memory were only this thread's. */
  alone<T>(body: () => T): T {
    this.#answers = [];
    this.#position = 0;
    this.#stepsLeft = undefined;
    return body();
  }

  /** One step of a thread; the memory changes. */
  step(body: Body, state: ThreadState): { thread: ThreadState; woken: number | undefined } {
    this.#answers = [...state.answers];
    this.#position = 0;
    this.#stepsLeft = 1;
    this.#asleepOn = undefined;
    this.#isPaused = false;
    this.#woken = undefined;
    const others = this.changeCount - state.changeCount;
    let result: unknown;
    let isDone = false;
    try {
      result = body();
      isDone = true;
    } catch (error) {
      if (!(error instanceof Yielded)) {
        throw error;
      }
    }
    // What others have changed since this attempt began may be what it failed for: then there is no pause.
    const since = state.pausedAt === undefined && state.answers.length > 0 ? state.since : others;
    const thread = {
      answers: isDone ? [] : this.#answers,
      isDone,
      result,
      changeCount: this.changeCount - others,
      since,
      pausedAt: this.#isPaused ? since : undefined,
      asleepOn: this.#asleepOn,
    };
    return { thread, woken: this.#woken };
  }

  /** The answer of the next step of the thread: an old one, or that of `act`, once. */
  #next(array: Int32Array | undefined, act: () => number): number {
    if (this.#stepsLeft === undefined) {
      return act();
    }
    const isQuiet = array !== undefined && this.quiet.has(array.buffer);
    const old = this.#answers[this.#position];
    if (old !== undefined) {
      this.#position += 1;
      return old;
    }
    if (!isQuiet) {
      if (this.#stepsLeft === 0) {
        throw new Yielded();
      }
      this.#stepsLeft = 0;
    }
    const answer = act();
    this.#answers.push(answer);
    this.#position += 1;
    return answer;
  }

  /** Reads a word and perhaps changes it, in one step. */
  #change(array: Int32Array, index: number, change: (value: number) => number): number {
    return this.#next(array, () => {
      const cell = this.#cell(array, index);
      const value = this.cells[cell] ?? 0;
      const changed = change(value) | 0;
      if (changed !== value) {
        this.cells[cell] = changed;
        this.changeCount += 1;
      }
      return value;
    });
  }

  #cell(array: Int32Array, index: number): number {
    let buffer = this.#bufferNumbers.get(array.buffer);
    if (buffer === undefined) {
      buffer = this.#bufferNumbers.size;
      this.#bufferNumbers.set(array.buffer, buffer);
    }
    const key = buffer * 2 ** 40 + array.byteOffset / 4 + index;
    let cell = this.#cellNumbers.get(key);
    if (cell === undefined) {
      cell = this.cells.push(0) - 1;
      this.#cellNumbers.set(key, cell);
    }
    return cell;
  }

  /** Waits for a change of the memory by another thread. */
  pause(): void {
    this.#next(undefined, () => {
      this.#isPaused = true;
      return 0;
    });
  }

  readonly atomics = {
    load: (array: Int32Array, index: number): number => this.#change(array, index, (value) => value),
    store: (array: Int32Array, index: number, to: number): number => {
      this.#change(array, index, () => to);
      return to;
    },
    add: (array: Int32Array, index: number, by: number): number =>
      this.#change(array, index, (value) => value + by),
    sub: (array: Int32Array, index: number, by: number): number =>
      this.#change(array, index, (value) => value - by),
    or: (array: Int32Array, index: number, bits: number): number =>
      this.#change(array, index, (value) => value | bits),
    exchange: (array: Int32Array, index: number, to: number): number => this.#change(array, index, () => to),
    compareExchange: (array: Int32Array, index: number, expected: number, to: number): number =>
      this.#change(array, index, (value) => (value === expected ? to : value)),
    wait: (array: Int32Array, index: number, expected: number): 'ok' | 'not-equal' => {
      const isAsleep = this.#next(undefined, () => {
        const cell = this.#cell(array, index);
        if (this.cells[cell] !== expected) {
          return 0;
        }
        this.#asleepOn = cell;
        return 1;
      });
      return isAsleep === 1 ? 'ok' : 'not-equal';
    },
    /** Wakes all: whoever may be woken needlessly must cope with that. */
    notify: (array: Int32Array, index: number): number =>
      this.#next(undefined, () => {
        this.#woken = this.#cell(array, index);
        return 0;
      }),
  };
}

let machine: Machine | undefined;

/** For set-ups: what commutes with everything else, as counters do, need not be a step of its own. */
export function doNotStepOn(buffer: SharedArrayBuffer): void {
  machine?.quiet.add(buffer);
}

/** For threads: waits until another thread has changed something. */
export function pause(): void {
  machine?.pause();
}

/**
 * Follows every order, or every one in which threads are interrupted no more often than `interruptionCountMax`
 * (most faults need two interruptions at most). `setUp` runs alone; `check` is called for each different end and throws when it is wrong.
 * Throws also when all threads wait for each other.
 */
export function explore(
  setUp: () => void,
  bodies: readonly Body[],
  check: (outcome: Outcome) => void,
  interruptionCountMax = Number.POSITIVE_INFINITY,
): Exploration {
  const own = new Machine();
  const { Atomics: real } = globalThis;
  machine = own;
  Object.assign(globalThis, { Atomics: own.atomics });
  try {
    own.alone(setUp);
    return search(own, bodies, check, interruptionCountMax);
  } finally {
    Object.assign(globalThis, { Atomics: real });
    machine = undefined;
  }
}

function search(
  own: Machine,
  bodies: readonly Body[],
  check: (outcome: Outcome) => void,
  interruptionCountMax: number,
): Exploration {
  const seen = new Set<string>();
  let endCount = 0;
  const start: State = {
    cells: [...own.cells],
    threads: bodies.map(() => FRESH),
    changeCount: own.changeCount,
    running: undefined,
    interruptionCount: 0,
  };
  const pending: State[] = [start];
  for (let state = pending.pop(); state !== undefined; state = pending.pop()) {
    const key = keyOf(state, interruptionCountMax);
    if (seen.has(key)) {
      continue;
    }
    seen.add(key);
    if (state.threads.every(({ isDone }) => isDone)) {
      endCount += 1;
      restore(own, state);
      check({
        results: state.threads.map(({ result }) => result),
        inspect: (body) => own.alone(body),
      });
      continue;
    }
    const ready = state.threads.flatMap((thread, index) => (canGo(thread, state.changeCount) ? [index] : []));
    if (ready.length === 0) {
      throw new Error(`All threads wait for each other: ${key}`);
    }
    const { running } = state;
    const isFree = running === undefined || !ready.includes(running);
    for (const index of ready) {
      const interruptionCount = state.interruptionCount + (isFree || index === running ? 0 : 1);
      if (interruptionCount <= interruptionCountMax) {
        pending.push({ ...follow(own, bodies, state, index), running: index, interruptionCount });
      }
    }
  }
  return { stateCount: seen.size, endCount };
}

function canGo({ isDone, changeCount, pausedAt, asleepOn }: ThreadState, total: number): boolean {
  return !isDone && asleepOn === undefined && pausedAt !== total - changeCount;
}

function follow(
  own: Machine,
  bodies: readonly Body[],
  state: State,
  index: number,
): Pick<State, 'cells' | 'threads' | 'changeCount'> {
  restore(own, state);
  const body = bodies[index];
  const before = state.threads[index];
  if (body === undefined || before === undefined) {
    throw new Error(`no thread ${index}`);
  }
  const { thread, woken } = own.step(body, before);
  const threads = state.threads.map((other, number) => {
    if (number === index) {
      return thread;
    }
    return woken !== undefined && other.asleepOn === woken ? { ...other, asleepOn: undefined } : other;
  });
  return { cells: [...own.cells], threads, changeCount: own.changeCount };
}

function restore(own: Machine, state: State): void {
  // Cells that were met later are still zero here.
  own.cells = Array.from(own.cells, (_, index) => state.cells[index] ?? 0);
  own.changeCount = state.changeCount;
}

function keyOf(state: State, interruptionCountMax: number): string {
  const { cells, threads, changeCount: total, running, interruptionCount } = state;
  // Trailing zeros: cells that another order has met and this one not yet.
  const words = cells.join(',').replace(/(,0)+$/, '');
  const parts = threads.map((thread) => {
    const { answers, isDone, result, changeCount, since, pausedAt, asleepOn } = thread;
    if (isDone) {
      return JSON.stringify(result);
    }
    const hasNews = since !== total - changeCount;
    return `${answers.join(',')} ${hasNews} ${pausedAt !== undefined} ${asleepOn}`;
  });
  const history = Number.isFinite(interruptionCountMax) ? `${running} ${interruptionCount}` : '';
  return `${words};${parts.join(';')};${history}`;
}
