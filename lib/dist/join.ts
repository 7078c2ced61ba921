// Uneven data: ranks that run out of items go on with the others until all have, so that nobody waits for a collective
// that never comes.
import { tensor } from '../core/index.js';
import type { Group } from './group.js';

/** One turn of {@link join}. */
export interface Turn<T> {
  /** This rank's item; null when it has run out: it takes part in the turn's collectives with zeros. */
  readonly item: T | null;
  /** How many ranks have an item in this turn: what an average divides by. */
  readonly active: number;
}

/**
 * Takes items on every rank in step, until all ranks have run out: each turn has the rank's next item or null, and how
 * many ranks have one. The count of a turn travels while the turn before is worked on. Every rank must run the same
 * loop; one that leaves it early leaves the others waiting. Rejects with COLLECTIVE_FAILED.
 */
export async function* join<T>(
  group: Group,
  items: Iterable<T> | AsyncIterable<T>,
): AsyncGenerator<Turn<T>, void, undefined> {
  const source =
    Symbol.asyncIterator in items ? items[Symbol.asyncIterator]() : (items as Iterable<T>)[Symbol.iterator]();
  const device = group.backend === 'nccl' ? 'cuda' : 'cpu';
  let exhausted = false;
  const take = async () => {
    const { value, done } = exhausted ? { value: undefined, done: true } : await source.next();
    if (done) exhausted = true;
    const have = tensor(Int32Array.of(done ? 0 : 1), { device });
    const work = group.allReduce(have);
    return {
      item: done ? null : (value as T),
      active: async () => {
        await work.done();
        const count = Number(await have.item());
        have.dispose();
        return count;
      },
    };
  };
  try {
    let next = await take();
    while (true) {
      const active = await next.active();
      if (active === 0) return;
      const { item } = next;
      next = await take();
      yield { item, active };
    }
  } finally {
    if (!exhausted) await source.return?.();
  }
}
