/** Long tasks in steps: none of them is lost, all have their turn, and everything else has one in between. */
import { setImmediate as nextTurn } from 'node:timers/promises';
import { expect, test } from 'vitest';
import { Turns } from '../../src/plugins/turns.ts';

const TURN_MS = 1;

/** A clock that stands still but for the steps, which take `stepMs` each. */
class Rig {
  now = 1000;
  readonly turns = new Turns(TURN_MS, () => this.now);
  readonly steps: string[] = [];

  async run(name: string, count: number, stepMs: number): Promise<void> {
    for (let step = 0; step < count; step += 1) {
      const turn = this.turns.take();
      if (turn !== undefined) await turn;
      this.now += stepMs;
      this.steps.push(name);
    }
  }
}

/** The steps of each turn of the event loop, from now on. */
async function stepsOfTurns(rig: Rig, count: number): Promise<string[]> {
  const turns: string[] = [];
  while (rig.steps.length > 0 || turns.flatMap((turn) => [...turn]).length < count) {
    turns.push(rig.steps.splice(0).join(''));
    await nextTurn();
  }
  return turns;
}

test('a step that is short enough need not wait', () => {
  const rig = new Rig();
  void rig.run('a', 3, 0.25);
  expect(rig.steps).toEqual(['a', 'a', 'a']);
});

test('a turn ends with the step that exceeds its time, and tasks take theirs in the order in which they asked', async () => {
  const rig = new Rig();
  for (const name of ['a', 'b', 'c']) void rig.run(name, 2, 0.6);
  expect(await stepsOfTurns(rig, 6)).toEqual(['aa', 'bc', 'bc']);
});

test('a step that takes longer than a turn has one of its own', async () => {
  const rig = new Rig();
  for (const name of ['a', 'b', 'c']) void rig.run(name, 2, 5);
  expect(await stepsOfTurns(rig, 6)).toEqual(['a', 'a', 'b', 'c', 'b', 'c']);
});

test('who asks in a later turn waits behind those who wait already', async () => {
  const rig = new Rig();
  for (const name of ['a', 'b', 'c']) void rig.run(name, 1, 5);
  await nextTurn();
  void rig.run('d', 1, 5);
  expect(rig.steps).toEqual(['a', 'b']);
  await nextTurn();
  expect(rig.steps).toEqual(['a', 'b', 'c']);
  await nextTurn();
  expect(rig.steps).toEqual(['a', 'b', 'c', 'd']);
});

test('time that passes between turns counts for none', async () => {
  const rig = new Rig();
  await rig.run('a', 1, 0.1);
  await nextTurn();
  rig.now += 1000;
  void rig.run('b', 2, 0.1);
  expect(rig.steps).toEqual(['a', 'b', 'b']);
});
