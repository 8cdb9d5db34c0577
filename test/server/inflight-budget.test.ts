/** The budget of requests in flight: bounds, fairness, wake-ups, and that everything comes back. */
import fc from 'fast-check';
import { describe, expect, test, vi } from 'vitest';
import {
  CONNECTION_INFLIGHT_BYTES_ASSURED,
  CONNECTION_INFLIGHT_BYTES_MAX,
  CONNECTION_INFLIGHT_REQUESTS_MAX,
  PAYLOAD_BYTES_MAX,
  PROCESS_INFLIGHT_BYTES_MAX,
} from '../../src/limits.ts';
import { ConnectionBudget, ProcessBudget } from '../../src/server/inflight-budget.ts';

const MiB = 1024 * 1024;

/** A process whose bytes other connections have used up. */
function exhausted(): ProcessBudget {
  const process = new ProcessBudget();
  process.take(PROCESS_INFLIGHT_BYTES_MAX);
  return process;
}

describe('one connection', () => {
  test('always has room for the largest request, and no more than its bytes', () => {
    const budget = new ConnectionBudget(new ProcessBudget(), () => {});
    expect(budget.tryTake(PAYLOAD_BYTES_MAX)).toBe(true);
    expect(budget.tryTake(CONNECTION_INFLIGHT_BYTES_MAX - PAYLOAD_BYTES_MAX)).toBe(true);
    expect(budget.tryTake(1)).toBe(false);
    expect(budget.tryTake(0)).toBe(true);
  });

  test('has a bound on requests without bytes', () => {
    const budget = new ConnectionBudget(new ProcessBudget(), () => {});
    for (let count = 0; count < CONNECTION_INFLIGHT_REQUESTS_MAX; count += 1) {
      expect(budget.tryTake(0)).toBe(true);
    }
    expect(budget.tryTake(0)).toBe(false);
    budget.give(0, 1);
    expect(budget.tryTake(0)).toBe(true);
  });

  test('is woken when something of its own comes back', () => {
    const wake = vi.fn();
    const budget = new ConnectionBudget(new ProcessBudget(), wake);
    budget.tryTake(CONNECTION_INFLIGHT_BYTES_MAX);
    budget.tryTake(1);
    expect(wake).not.toHaveBeenCalled();
    budget.give(CONNECTION_INFLIGHT_BYTES_MAX, 1);
    expect(wake).toHaveBeenCalled();
  });
});

test('who is woken may give back at once: the stack does not grow with those who wait', () => {
  const process = exhausted();
  const order: number[] = [];
  let depth = 0;
  let depthMax = 0;
  const BYTES = PROCESS_INFLIGHT_BYTES_MAX / 8;
  const budgets = Array.from({ length: 50 }, (_, index) => {
    const budget = new ConnectionBudget(process, () => {
      depth += 1;
      depthMax = Math.max(depthMax, depth);
      if (!order.includes(index) && budget.tryTake(BYTES)) {
        order.push(index);
        budget.give(BYTES, 1);
      }
      depth -= 1;
    });
    return budget;
  });
  for (const budget of budgets) expect(budget.tryTake(BYTES)).toBe(false);
  process.give(BYTES);
  expect(order).toEqual(Array.from({ length: 50 }, (_, index) => index));
  // Its own wake-up, within that of the process.
  expect(depthMax).toBe(2);
});

describe('when others have used up the bytes of the process', () => {
  test('small requests still get through, up to what is assured', () => {
    const budget = new ConnectionBudget(exhausted(), () => {});
    const half = CONNECTION_INFLIGHT_BYTES_ASSURED / 2;
    expect(budget.tryTake(half)).toBe(true);
    expect(budget.tryTake(half)).toBe(true);
    expect(budget.tryTake(1)).toBe(false);
    expect(budget.tryTake(0)).toBe(true);
  });

  test('a refused connection is woken whenever bytes come back, until it got its own', () => {
    const process = exhausted();
    const wake = vi.fn();
    const budget = new ConnectionBudget(process, wake);
    expect(budget.tryTake(MiB)).toBe(false);
    process.give(0);
    expect(wake).not.toHaveBeenCalled();
    process.give(MiB);
    process.give(MiB);
    expect(wake).toHaveBeenCalledTimes(2);
    expect(budget.tryTake(MiB)).toBe(true);
    process.give(MiB);
    expect(wake).toHaveBeenCalledTimes(2);
  });

  test('a large request is not overtaken by smaller ones of other connections', () => {
    const process = exhausted();
    const large = new ConnectionBudget(process, () => {});
    const small = new ConnectionBudget(process, () => {});
    expect(large.tryTake(8 * MiB)).toBe(false);
    process.give(MiB);
    expect(small.tryTake(MiB)).toBe(false);
    process.give(7 * MiB);
    expect(large.tryTake(8 * MiB)).toBe(true);
  });

  test('the one that waits longest is woken first', () => {
    const process = exhausted();
    const woken: string[] = [];
    const first = new ConnectionBudget(process, () => woken.push('first'));
    const second = new ConnectionBudget(process, () => woken.push('second'));
    first.tryTake(MiB);
    second.tryTake(MiB);
    first.tryTake(MiB);
    process.give(2 * MiB);
    expect(woken).toEqual(['first', 'second']);
  });

  test('one that is refused again while it is woken goes on waiting', () => {
    const process = exhausted();
    const wakes = vi.fn(() => {
      budget.tryTake(4 * MiB);
    });
    const budget = new ConnectionBudget(process, wakes);
    budget.tryTake(4 * MiB);
    for (let count = 0; count < 4; count += 1) {
      process.give(MiB);
    }
    expect(wakes).toHaveBeenCalledTimes(4);
    expect(process.bytes).toBe(PROCESS_INFLIGHT_BYTES_MAX);
  });

  test('one that is gone is not woken', () => {
    const process = exhausted();
    const wake = vi.fn();
    const budget = new ConnectionBudget(process, wake);
    budget.tryTake(MiB);
    budget.close();
    process.give(MiB);
    expect(wake).not.toHaveBeenCalled();
  });
});

/** The rules as the design has them, over plain lists. */
class NaiveModel {
  readonly connections: { readonly taken: number[]; isWaiting: boolean }[];

  constructor(count: number) {
    this.connections = Array.from({ length: count }, () => ({ taken: [], isWaiting: false }));
  }

  bytesOf(connection: number): number {
    return (this.connections[connection]?.taken ?? []).reduce((sum, bytes) => sum + bytes, 0);
  }

  get bytes(): number {
    return this.connections.reduce((sum, _, index) => sum + this.bytesOf(index), 0);
  }

  mayTake(connection: number, bytes: number): boolean {
    const own = this.bytesOf(connection) + bytes;
    return (
      own <= CONNECTION_INFLIGHT_BYTES_MAX &&
      (own <= CONNECTION_INFLIGHT_BYTES_ASSURED || this.bytes + bytes <= PROCESS_INFLIGHT_BYTES_MAX)
    );
  }
}

test('any sequence of taking and giving does what the naive model does, and ends with nothing in flight', () => {
  const CONNECTIONS = 7;
  const bytes = fc.oneof(
    fc.nat({ max: 128 * 1024 }),
    fc.integer({ min: 8 * MiB, max: PAYLOAD_BYTES_MAX }),
    fc.constant(PAYLOAD_BYTES_MAX),
  );
  const step = fc.record({
    connection: fc.nat({ max: CONNECTIONS - 1 }),
    // A number: take so many bytes. Undefined: give the oldest back.
    bytes: fc.option(bytes, { nil: undefined, freq: 3 }),
  });
  fc.assert(
    fc.property(fc.array(step, { maxLength: 120 }), (steps) => {
      const process = new ProcessBudget();
      const model = new NaiveModel(CONNECTIONS);
      const woken = new Set<number>();
      const budgets = model.connections.map(
        (_, index) => new ConnectionBudget(process, () => woken.add(index)),
      );
      const give = (connection: number): void => {
        const state = model.connections[connection];
        const given = state?.taken.shift();
        if (given === undefined) return;
        const waiting = model.connections.flatMap(({ isWaiting }, index) => (isWaiting ? [index] : []));
        woken.clear();
        budgets[connection]?.give(given, 1);
        // Whoever waits hears of every byte that comes back; the giver hears of it in any case.
        expect([...woken].sort()).toEqual([...new Set([connection, ...(given > 0 ? waiting : [])])].sort());
        if (given > 0) {
          for (const { index, state } of model.connections.map((state, index) => ({ state, index }))) {
            state.isWaiting &&= !woken.has(index);
          }
        }
      };
      for (const { connection, bytes } of steps) {
        const state = model.connections[connection];
        if (bytes === undefined || state === undefined) {
          give(connection);
        } else {
          const mayTake = model.mayTake(connection, bytes);
          const isBoundedByItself = model.bytesOf(connection) + bytes > CONNECTION_INFLIGHT_BYTES_MAX;
          expect(budgets[connection]?.tryTake(bytes)).toBe(mayTake);
          if (mayTake) state.taken.push(bytes);
          else state.isWaiting ||= !isBoundedByItself;
        }
        expect(process.bytes).toBe(model.bytes);
        expect(budgets.map(({ requests }) => requests)).toEqual(
          model.connections.map(({ taken }) => taken.length),
        );
      }
      for (const index of model.connections.keys()) {
        while (model.connections[index]?.taken.length !== 0) give(index);
      }
      expect(process.bytes).toBe(0);
    }),
  );
});
