// The states of a strategy that spreads a model, and what it says of a call that does not fit its state. What the calls do is
// replicate.ts and zero.ts.
//
// States: open -> busy (a begin() or finish() is on its way) -> open; from either -> disposed, and a busy one frees its memory
// when what is on its way has ended. What may wait (begin, finish, whole, sumOverParts) waits for what is on its way; what
// is called between them would communicate in another order than on other ranks, or use memory that is not ready: it is refused.
//
// Gradients of a step: none -> reducing (from the first reduce() of its last micro-batch) -> handed out (finish(), which then has nothing
// more to do) -> none (begin(), or the next reduce()).
import { describe, ShardloopError } from '../core/index.js';
import type { Group } from '../dist/index.js';
import type { Strategy } from './strategy.js';

/** What messages say. */
export interface Spoken {
  /** The function that makes such strategies. */
  readonly name: 'replicate' | 'zero';
  /** What has to be made anew where the strategy or a group of it is gone. */
  readonly anew: string;
  /** Over which the strategy communicates. */
  readonly groups: readonly Group[];
  /** How many segments the model has. */
  readonly segments: number;
}

/** The same strategy, which knows its state. */
export function inTurn(inner: Strategy, { name, anew, groups, segments: count }: Spoken): Strategy {
  let busy: { readonly call: 'begin' | 'finish'; readonly done: Promise<void>; readonly result: Promise<void> } | null =
    null;
  let disposed = false;
  let gradients: 'none' | 'reducing' | 'handed out' = 'none';

  const usable = (call: keyof Strategy): void => {
    const refuse = (what: string) => new ShardloopError('BAD_ARGUMENT', `${name}: ${call}(): expected ${what}${anew}`);
    if (disposed) throw refuse('a strategy that is in use, received one that was disposed; make ');
    const gone = groups.find(({ isDestroyed }) => isDestroyed);
    if (gone)
      throw refuse(`an open group, received '${gone.name}', which was destroyed; make another group, and over it `);
  };
  const now = (call: keyof Strategy): void => {
    usable(call);
    if (busy === null) return;
    const expected = `expected ${busy.call}() to be over, received a call while it is under way`;
    throw new ShardloopError('BAD_ARGUMENT', `${name}: ${call}(): ${expected}; await ${busy.call}() first`);
  };
  const nowAt = (call: keyof Strategy, k: number): void => {
    now(call);
    if (Number.isInteger(k) && k >= 0 && k < count) return;
    const expected = `expected a segment from 0 to ${count - 1}, received ${describe(k)}`;
    throw new ShardloopError('BAD_ARGUMENT', `${name}: ${call}(): ${expected}; run the segments that it was made for`);
  };
  /** Waits for what is on its way, whose failure is its caller's to see. */
  const turn = async (call: keyof Strategy): Promise<void> => {
    while (busy !== null) await busy.done;
    usable(call);
  };
  const occupy = (call: 'begin' | 'finish', run: () => Promise<void>): Promise<void> => {
    const running = run();
    const over = () => {
      busy = null;
      if (disposed) inner.dispose();
    };
    const done = running.then(over, over);
    const result = done.then(() => running);
    busy = { call, done, result };
    return result;
  };

  return {
    writesParts: inner.writesParts,
    async begin(segments) {
      if (busy !== null) await turn('begin');
      usable('begin');
      if (Array.isArray(segments) && segments.length > 0 && segments.length !== count) {
        const expected = `expected the ${count} segments that it was made for, received ${segments.length}`;
        throw new ShardloopError('BAD_ARGUMENT', `${name}: begin(): ${expected}`);
      }
      gradients = 'none';
      await occupy('begin', () => inner.begin(segments));
    },
    gather(k, pass) {
      nowAt('gather', k);
      inner.gather(k, pass);
    },
    release(k, pass) {
      nowAt('release', k);
      inner.release(k, pass);
    },
    reduce(k, last) {
      nowAt('reduce', k);
      gradients = last ? 'reducing' : 'none';
      inner.reduce(k, last);
    },
    async finish() {
      if (busy?.call === 'finish') return busy.result;
      if (busy !== null) await turn('finish');
      usable('finish');
      if (gradients === 'handed out') return;
      gradients = 'handed out';
      await occupy('finish', () => inner.finish());
    },
    part(parameter) {
      usable('part');
      return inner.part(parameter);
    },
    assemble(parameters, values, use) {
      now('assemble');
      inner.assemble(parameters, values, use);
    },
    async sumOverParts(value) {
      if (busy !== null) await turn('sumOverParts');
      usable('sumOverParts');
      return inner.sumOverParts(value);
    },
    updated() {
      now('updated');
      if (gradients === 'reducing') {
        const expected =
          'expected the gradients of all ranks to be in before the optimizer uses them, received a call without finish()';
        const instead = 'await finish() ahead of the optimizer, or begin(segments) where the step failed';
        throw new ShardloopError('BAD_ARGUMENT', `${name}: updated(): ${expected}; ${instead}`);
      }
      inner.updated();
    },
    async whole(fn, parameters) {
      if (busy !== null) await turn('whole');
      usable('whole');
      return inner.whole(fn, parameters);
    },
    dispose() {
      if (disposed) return;
      disposed = true;
      if (busy === null) inner.dispose();
    },
  };
}
