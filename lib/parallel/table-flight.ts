// What travels of a tied table to the ranks that own shards of it, without a bucket: its whole gradient, where that is laid
// out as what is scattered, and the rows that follow (tied-table.ts). The buckets are gradient-shards.ts.
import { ops, scope, type Tensor } from '../core/index.js';
import type { Group, Work } from '../dist/index.js';
import type { ShardedUnit } from './sharded-unit.js';
import type { TableRows, TiedTable } from './tied-table.js';

/** Whether a table's gradient fills the shards of `ranks` ranks, in their order. */
export function fillsShards({ plan, shardSize, offload }: ShardedUnit, ranks: number): boolean {
  return plan.headAt !== null && offload === undefined && plan.numel === shardSize * ranks;
}

/** One operation on its way. */
export class TableFlight {
  readonly hop = 'scattering'; // and no other: hybrid sharding has no tied tables
  readonly work: Work;
  readonly #rows: TableRows | null;
  readonly #part: (() => { sum: Tensor; start: number }) | null;

  private constructor(work: Work, rows: TableRows | null, part: (() => { sum: Tensor; start: number }) | null) {
    this.work = work;
    this.#rows = rows;
    this.#part = part;
  }

  /** Collective: scatters the whole gradient, or zeros where there is none, into this rank's sums. */
  static ofWhole(gradient: Tensor | null, sum: Tensor, group: Group, op: 'sum' | 'avg'): TableFlight {
    const whole = gradient ?? ops.new_zeros(sum, [sum.numel * group.size]);
    return new TableFlight(group.reduceScatter(sum, whole, op), null, null); // the operation holds the gradient
  }

  /** Collective: gathers the rows of all ranks. `part` gives this rank's sums (n), and where in the table they start. */
  static ofRows(table: TiedTable, op: 'sum' | 'avg', part: () => { sum: Tensor; start: number }): TableFlight {
    const rows = table.sendRows(op);
    return new TableFlight(rows.work, rows, part);
  }

  /** It has arrived: rows are added to the sums. */
  land(): void {
    if (this.#rows === null) return;
    scope(() => {
      const { sum, start } = this.#part!();
      this.#rows!.land(sum, start);
    });
    this.#rows.dispose();
  }
}
