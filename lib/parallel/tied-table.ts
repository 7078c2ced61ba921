// A tied table: a weight of which a head reads all and an embedding looks up rows. The head's backward runs first, and gives a
// gradient of the table's size; the embedding's, at the end, gives as many rows as the micro-batch has ids. So the large one
// goes on its way while the backward of what lies between them goes on, and the rows follow.
//
// States, for a micro-batch whose gradients are combined:
//   counting   from behind the head's backward: the ranks find out the most ids that any of them looked up
//   early      from behind the next segment's backward: the large gradient is on its way, and the parameter's `grad` is
//              sparse, to which the embedding adds rows; or
//   late       the rows of all ranks would not be few beside the table (or nobody looks up): the gradient adds up whole
// Behind the embedding's backward the rows are gathered (early), or the whole gradient goes (late). Both are decided by what all
// ranks know, and each step anew, so that a resumed run does what an undisturbed one does.
import { call, noGrad, ops, owned, ShardloopError, type Tensor, tensor } from '../core/index.js';
import type { Group, Work } from '../dist/index.js';
import { countLookups, Embedding, lookupsOf } from '../nn/embedding.js';
import { type Segment, segmentParameters } from '../nn/index.js';
import type { BucketPlan } from './buckets.js';

/** The rows of all ranks are few where they are at most this share of the table's. */
const SHARE = 1 / 4;

/**
 * Tied tables that train and `mayPart`, by the segment of their head. Another segment lies between the two, or nothing would be
 * won.
 */
export function tiedTables(segments: readonly Segment[], mayPart: (table: Tensor) => boolean): Map<Tensor, number> {
  const readers = new Map<Tensor, number[]>();
  for (const [k, segment] of segments.entries()) {
    for (const table of segmentParameters(segment)) readers.set(table, [...(readers.get(table) ?? []), k]);
  }
  const tables = new Map<Tensor, number>();
  for (const [table, [embedding, head, ...others]] of readers) {
    if (head === undefined || others.length > 0 || head < embedding! + 2) continue;
    if (table.requiresGrad && table.numel > 0 && mayPart(table) && looksUp(segments[embedding!]!, table))
      tables.set(table, head);
  }
  return tables;
}

/** Whether a segment has the table in embeddings alone. */
function looksUp(segment: Segment, table: Tensor): boolean {
  const holders = segment.modules
    .flatMap((module) => module.namedModules().map(([, inner]) => inner))
    .filter((module) => Object.values(module).includes(table));
  return holders.length > 0 && holders.every((module) => module instanceof Embedding);
}

/** What is due behind a segment's backward: the parameter's whole gradient, the rows that came since, or nothing. */
export type Due = 'whole' | 'rows' | null;

export class TiedTable {
  readonly #parameter: Tensor; // (V, D)
  readonly #group: Group;
  readonly #embedding: number;
  readonly #head: number;
  #counting: { most: Tensor; work: Work } | null = null;
  /** The most ids of any rank, where the large gradient went early; else 0. */
  #rows = 0;

  /** Of a bucket that {@link planBuckets} made for a table. */
  constructor({ slots, readyAt, headAt }: BucketPlan, group: Group) {
    this.#parameter = slots[0]!.parameter;
    this.#group = group;
    this.#embedding = readyAt;
    this.#head = headAt!;
  }

  /** Segment k is about to run forward. */
  begin(k: number): void {
    if (k === this.#embedding) countLookups(this.#parameter);
  }

  /** Collective: what to send behind segment k's backward. */
  due(k: number): Due {
    if (k === this.#head) this.#count();
    if (k === this.#head - 1) return this.#decide() ? 'whole' : null;
    if (k === this.#embedding) return this.#rows > 0 ? 'rows' : 'whole';
    return null;
  }

  #count(): void {
    this.dispose(); // of a micro-batch that failed, where no begin() came between
    const most = owned(() => tensor(Int32Array.of(lookupsOf(this.#parameter))));
    this.#counting = { most, work: this.#group.allReduce(most, 'max') };
  }

  #decide(): boolean {
    if (this.#counting === null) return false;
    const { most, work } = this.#counting;
    this.#counting = null;
    work.wait();
    const rows = most.itemSync() as number;
    most.dispose();
    const fits = rows * this.#group.size <= this.#parameter.shape[0]! * SHARE;
    this.#rows = fits ? rows : 0;
    return this.#rows > 0;
  }

  /** The whole gradient has been taken: what comes now are rows. */
  sent(): void {
    if (this.#rows > 0) call('shardloop::expect_rows', this.#parameter);
  }

  /** Collective: gathers the rows that came since, of all ranks. */
  sendRows(op: 'sum' | 'avg'): TableRows {
    const { size } = this.#group;
    const most = this.#rows;
    this.#rows = 0;
    const [ids, rows, sent] = noGrad(() =>
      owned(() => {
        const [places, values] = this.#take();
        const missing = most - places.shape[0]!;
        if (missing < 0) {
          throw new ShardloopError(
            'BAD_ARGUMENT',
            `expected at most ${most} rows of an embedding's gradient, received ${places.shape[0]}; ` +
              'look up the same ids in the backward as in the forward',
          );
        }
        const mine = [
          ops.constant_pad_nd(places, [0, missing], { value: -1 }), // no row
          ops.constant_pad_nd(op === 'avg' ? ops.div(values, size) : values, [0, 0, 0, missing]),
        ] as const;
        return [
          ops.new_empty(mine[0], [size * most]),
          ops.new_empty(mine[1], [size * most, values.shape[1]!]),
          mine,
        ] as const;
      }),
    );
    const work = this.#group.allGather([ids, rows], sent);
    for (const t of sent) t.dispose(); // the operation holds them
    return new TableRows(ids, rows, work);
  }

  #take(): [Tensor, Tensor] {
    try {
      return call('shardloop::take_rows', this.#parameter) as [Tensor, Tensor];
    } catch (cause) {
      const shape = this.#parameter.shape.join(', ');
      const where = `segment ${this.#embedding}, whose table [${shape}] segment ${this.#head} reads too`;
      throw new ShardloopError('BAD_ARGUMENT', `${where}: ${(cause as Error).message}`, { cause });
    }
  }

  /** Lets go of what is under way. */
  dispose(): void {
    this.#counting?.most.dispose(); // the operation holds it
    this.#counting = null;
    this.#rows = 0;
  }
}

/** Rows on their way from all ranks, in the order of the ranks. */
export class TableRows {
  readonly #ids: Tensor; // (size * most), -1 where there is none
  readonly #rows: Tensor; // (size * most, D)
  readonly work: Work;

  constructor(ids: Tensor, rows: Tensor, work: Work) {
    this.#ids = ids;
    this.#rows = rows;
    this.work = work;
  }

  /** Adds them to a part (n) of the table's gradient: its elements from `start` on in row-major order. */
  land(part: Tensor, start: number): void {
    if (part.numel > 0) noGrad(() => call('shardloop::add_rows_', part, this.#ids, this.#rows, start));
  }

  dispose(): void {
    this.#ids.dispose();
    this.#rows.dispose();
  }
}
