// A benchmark from its plan to its result: every size, dtype, reduction and root in turn, on all ranks of a group. What is
// printed of it stands in table.ts, what is written in report.ts.
import { libtorchVersion, noGrad, scope } from '../core/index.js';
import { busFactor, type Group } from '../dist/index.js';
import { type Measurement, measure } from './measure.js';
import { type CaseOptions, elementsFor, OPERATIONS, type Operation, type OperationName } from './operations.js';
import { type BenchPlan, combinations, OPS, type OpName, rootsOf, TYPES, type TypeName } from './options.js';
import { type Fit, fitLine } from './statistics.js';

/** One line of the table. */
export interface Row {
  /** Bytes of the operation: of the tensor, or of all ranks' parts together. */
  readonly size: number;
  /** Elements of the tensor, or of one part. */
  readonly count: number;
  readonly type: TypeName;
  readonly redop: OpName;
  /** -1 where the operation has none. */
  readonly root: number;
  readonly outOfPlace: Measurement;
  /** null where the operation cannot be done in place. */
  readonly inPlace: Measurement | null;
}

/** All of a benchmark, as the JSON file holds it. */
export interface BenchResult {
  readonly operation: OperationName;
  readonly backend: string;
  readonly ranks: number;
  readonly iters: number;
  readonly warmupIters: number;
  readonly check: number;
  readonly libtorch: string;
  readonly rows: readonly Row[];
  /** Wrong elements over all rows and ranks. */
  readonly outOfBounds: number;
  /** GB/s, the mean over rows and places. */
  readonly averageBusBandwidth: number;
  /** Of the times out of place. */
  readonly fit: Fit | null;
}

/**
 * Runs a plan; every rank of the group must, with the same plan. `onRow` is called for each row as it comes. Throws
 * BAD_ARGUMENT as {@link rootsOf} does, COLLECTIVE_FAILED.
 */
export async function runBench(
  group: Group,
  device: string,
  plan: BenchPlan,
  onRow: (row: Row) => void = () => {},
): Promise<BenchResult> {
  const roots = rootsOf(plan, group.size);
  const rows: Row[] = [];
  for (const { type, op } of combinations(plan)) {
    for (const root of roots) {
      const done = new Set<number>();
      for (const bytes of plan.sizes) {
        const { count, size } = elementsFor(OPERATIONS[plan.operation], bytes, TYPES[type], group.size);
        if (done.has(size)) continue; // the smallest sizes round to the same number of elements
        done.add(size);
        const row = rowOf(group, device, plan, { size, count, type, redop: op, root });
        rows.push(row);
        onRow(row);
        await new Promise((resolve) => setImmediate(resolve)); // signals and output get their turn
      }
    }
  }
  return summarize(group, plan, rows);
}

function rowOf(
  group: Group,
  device: string,
  plan: BenchPlan,
  head: Pick<Row, 'size' | 'count' | 'type' | 'redop' | 'root'>,
): Row {
  const operation: Operation = OPERATIONS[plan.operation];
  const options: Omit<CaseOptions, 'inPlace'> = {
    group,
    device,
    dtype: TYPES[head.type],
    count: head.count,
    op: head.redop === 'none' ? 'sum' : OPS[head.redop],
    root: Math.max(0, head.root),
  };
  const factor = busFactor(operation.traffic, group.size);
  const place = (inPlace: boolean) =>
    scope(() =>
      noGrad(() => measure(group, device, operation.make({ ...options, inPlace }), plan, { ...head, factor })),
    );
  return { ...head, outOfPlace: place(false), inPlace: operation.hasInPlace ? place(true) : null };
}

function summarize(group: Group, plan: BenchPlan, rows: readonly Row[]): BenchResult {
  const all = rows.flatMap(({ outOfPlace, inPlace }) => (inPlace === null ? [outOfPlace] : [outOfPlace, inPlace]));
  return {
    operation: plan.operation,
    backend: group.backend,
    ranks: group.size,
    iters: plan.iters,
    warmupIters: plan.warmupIters,
    check: plan.check,
    libtorch: libtorchVersion(),
    rows,
    outOfBounds: all.reduce((sum, { wrong }) => sum + (wrong ?? 0), 0),
    averageBusBandwidth: all.reduce((sum, { busbw }) => sum + busbw, 0) / all.length,
    fit: fitLine(rows.map(({ size, outOfPlace }) => ({ bytes: size, timeUs: outOfPlace.timeUs }))),
  };
}
