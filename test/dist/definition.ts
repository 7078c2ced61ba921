// The collectives by their definition: from the inputs of all ranks, in one place, to the outputs of all ranks. What
// properties.test.ts compares the wire with. Values are chosen so that every dtype holds every result exactly, means apart.

/** One operation that all `ranks` of a group call; ranks, roots and peers count within the group. */
export interface Step {
  readonly op: string;
  readonly dtype: string;
  /** Of a rank's own tensor, or of the shard. */
  readonly shape: readonly number[];
  readonly reduceOp: string;
  readonly root: number;
  readonly peer: number;
  readonly seed: number;
  /** Rows by rank, or by rank and rank: any small numbers. */
  readonly rows: readonly number[];
  /** Whether the subgroup runs it, and not the world. */
  readonly inner: boolean;
}

/** The text of `value`, `rowsOf` and `rowsBetween`, which the ranks evaluate as well. */
export const SHARED = `
  // Element i of what \`rank\` gives to a step.
  function value(step, rank, i) {
    const mixed = (Math.imul(step.seed + 7 * rank + 31 * i, 2654435761) >>> 16) % 7;
    if (step.dtype === 'bool') return mixed & 1;
    if (step.reduceOp === 'product') return step.dtype === 'uint8' || mixed % 2 ? 1 : -1;
    return step.dtype === 'uint8' ? mixed : mixed - 3;
  }
  const rowsOf = (step, rank) => step.rows[rank % step.rows.length];
  const rowsBetween = (step, from, to) => step.rows[(from + 3 * to) % step.rows.length];`;

const shared = new Function(`${SHARED} return { value, rowsOf, rowsBetween };`)() as {
  value(step: Step, rank: number, i: number): number;
  rowsOf(step: Step, rank: number): number;
  rowsBetween(step: Step, from: number, to: number): number;
};

const total = (list: readonly number[]) => list.reduce((a, b) => a + b, 0);
const product = (list: readonly number[]) => list.reduce((a, b) => a * b, 1);

function reduced(values: readonly number[], op: string): number {
  if (op === 'min') return Math.min(...values);
  if (op === 'max') return Math.max(...values);
  if (op === 'product') return product(values);
  return op === 'avg' ? total(values) / values.length : total(values);
}

/** What rank `me` of `size` holds after the step, element by element; null where it holds nothing new. */
export function outcome(step: Step, me: number, size: number): number[] | null {
  const { op, root } = step;
  const each = product(step.shape);
  const row = product(step.shape.slice(1));
  const of = (rank: number, from: number, count: number) =>
    Array.from({ length: count }, (_, i) => shared.value(step, rank, from + i));
  const all = Array.from({ length: size }, (_, r) => r);
  const reduce = (from: number) =>
    Array.from({ length: each }, (_, i) =>
      reduced(
        all.map((r) => shared.value(step, r, from + i)),
        step.reduceOp,
      ),
    );
  switch (op) {
    case 'all_reduce':
      return reduce(0);
    case 'reduce':
      return me === root ? reduce(0) : of(me, 0, each);
    case 'broadcast':
      return of(root, 0, each);
    case 'all_gather':
      return all.flatMap((r) => of(r, 0, each));
    case 'all_gather_uneven':
      return all.flatMap((r) => of(r, 0, shared.rowsOf(step, r) * row));
    case 'reduce_scatter':
      return reduce(me * each);
    case 'all_to_all':
      return all.flatMap((r) => of(r, me * each, each));
    case 'all_to_all_uneven':
      return all.flatMap((from) => {
        const before = total(all.slice(0, me).map((to) => shared.rowsBetween(step, from, to)));
        return of(from, before * row, shared.rowsBetween(step, from, me) * row);
      });
    case 'gather':
      return me === root ? all.flatMap((r) => of(r, 0, each)) : null;
    case 'scatter':
      return of(root, me * each, each);
    default: // from root to peer
      return me === step.peer && root !== step.peer ? of(root, 0, each) : null;
  }
}
