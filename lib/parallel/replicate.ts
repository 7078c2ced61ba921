// Data parallelism by replication: every rank holds the whole model and sees other records; gradients are summed over the
// ranks in flat buckets, each launched as soon as the backward has completed it, while the backward goes on.
//
// States of a bucket: idle, without memory -> in flight (from reduce(k) behind its last gradient) -> idle (finish: the
// parameters' gradients are views of its buffer, which goes when the optimizer drops them). That of a tied table leaves
// before its rows, which are added when both have arrived (tied-table.ts).
import { type DType, describe, noGrad, ops, owned, ShardloopError, scope, type Tensor, tensor } from '../core/index.js';
import { requireOptions } from '../core/options.js';
import type { Group, Work } from '../dist/index.js';
import { isOnKernelDevice } from '../nn/fused.js';
import type { Segment } from '../nn/index.js';
import { checkAlike, leaveStep } from './alike.js';
import { type BucketPlan, planBuckets } from './buckets.js';
import { alone, dropGradients, REPEAT, type Strategy } from './strategy.js';
import { type TableRows, TiedTable, tiedTables } from './tied-table.js';
import { inTurn } from './turns.js';

/** Options of {@link replicate}. */
export interface ReplicateOptions {
  /** The most bytes of gradients that travel together. Default: 4 MiB with Gloo, 25 MiB with NCCL. */
  bucketBytes?: number;
  /** In which dtype gradients travel: their own (default), 'float32', or 'bfloat16', which halves the traffic of float32 ones. */
  reduceDtype?: 'float32' | 'bfloat16';
  /** Default 'sum': each rank's loss is its share of the global batch's. 'avg' where each rank's loss is a mean of its own. */
  op?: 'sum' | 'avg';
  /** Whether rank 0's trainable parameters are copied to the others first. Default true. */
  broadcast?: boolean;
}

const MIB = 1024 * 1024;

/**
 * The strategy that replicates a model over `group`. A parameter without a gradient on this rank counts as zeros; one
 * without a gradient on any rank keeps none. With a group of one it does nothing.
 * Throws BAD_ARGUMENT when the ranks' parameters do not match, and at updated() when finish() was left out.
 */
export function replicate(segments: readonly Segment[], group: Group, options: ReplicateOptions = {}): Strategy {
  requireOptions('replicate', options);
  const {
    op = 'sum',
    broadcast = true,
    reduceDtype,
    bucketBytes = (group.backend === 'nccl' ? 25 : 4) * MIB,
  } = options;
  if (!(bucketBytes > 0)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `replicate: expected bucketBytes to be positive, received ${describe(bucketBytes)}`,
    );
  }
  if (reduceDtype !== undefined && reduceDtype !== 'float32' && reduceDtype !== 'bfloat16') {
    const received = describe(reduceDtype);
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `replicate: expected reduceDtype to be 'float32' or 'bfloat16', received ${received}`,
    );
  }
  if (group.size === 1) return alone;
  // In another dtype the sum of both is rounded, not each.
  const travelsAsIs = (table: Tensor) => isOnKernelDevice(table) && (reduceDtype ?? table.dtype) === table.dtype;
  const plans = planBuckets(segments, { bytes: bucketBytes, tables: tiedTables(segments, travelsAsIs) });
  checkAlike('replicate', plans, group);
  if (broadcast) for (const { slots } of plans) group.broadcast(slots.map((slot) => slot.parameter)).wait();
  const buckets = plans.map((plan) => new Bucket(plan, group, op, reduceDtype));
  let sends = false; // collectives of this step have begun
  const strategy: Strategy = {
    ...alone,
    writesParts: group.rank === 0,
    async begin() {
      if (sends) {
        await leaveStep('replicate', [group], async () => {
          for (const bucket of buckets) await bucket.abandon();
        });
      }
      sends = false;
      dropGradients(segments);
    },
    gather(k, pass) {
      if (pass === 'forward') for (const { table } of buckets) table?.begin(k);
    },
    reduce(k, last) {
      if (!last) return;
      sends = true;
      for (const bucket of buckets) bucket.reduce(k);
    },
    async finish() {
      for (const bucket of buckets) await bucket.finish();
      sends = false;
    },
    dispose() {
      for (const bucket of buckets) bucket.dispose();
    },
  };
  const anew = 'another strategy with replicate(segments, group)';
  return inTurn(strategy, { name: 'replicate', anew, groups: [group], segments: segments.length });
}

/** Flat memory, and what lies in it. */
interface Flat {
  readonly whole: Tensor; // (numel + slots)
  readonly views: readonly Tensor[]; // one for each slot, in its parameter's shape
  /** For each slot how many ranks had a gradient. */
  readonly counts: Tensor; // (slots)
}

/** The gradients of some parameters on their way. */
class Bucket {
  /** Of a bucket with a tied table. */
  readonly table: TiedTable | null;
  readonly #plan: BucketPlan;
  readonly #group: Group;
  readonly #op: 'sum' | 'avg';
  readonly #dtype: DType;
  #flat: Flat | null = null;
  #work: Work | null = null;
  #rows: TableRows | null = null;

  constructor(plan: BucketPlan, group: Group, op: 'sum' | 'avg', reduceDtype?: DType) {
    this.table = plan.headAt === null ? null : new TiedTable(plan, group);
    this.#plan = plan;
    this.#group = group;
    this.#op = op;
    this.#dtype = reduceDtype ?? plan.slots[0]!.parameter.dtype;
  }

  /** Segment k's last backward of the step has run: sends what is complete. */
  reduce(k: number): void {
    const due = this.table === null ? this.#plan.readyAt === k && 'whole' : this.table.due(k);
    if (due === 'rows') this.#rows = this.table!.sendRows(this.#op);
    if (due !== 'whole') return;
    this.#launch();
    this.table?.sent();
  }

  /** Moves the gradients in, and starts to reduce them. */
  #launch(): void {
    if (this.#work !== null) {
      throw new ShardloopError('BAD_ARGUMENT', `replicate: reduce() came again before finish() was awaited; ${REPEAT}`);
    }
    const { whole, views, counts } = makeFlat(this.#plan, this.#dtype);
    this.#flat = { whole, views, counts };
    scope(() =>
      noGrad(() => {
        const gradients = this.#plan.slots.map(({ parameter }) => parameter.grad);
        const present = gradients.flatMap((gradient, i) => (gradient === null ? [] : [i]));
        const missing = views.filter((_, i) => gradients[i] === null);
        if (missing.length > 0) ops._foreach_zero_(missing);
        if (present.length > 0) {
          ops._foreach_copy_(
            present.map((i) => views[i]!),
            present.map((i) => gradients[i]!),
          );
        }
        ops.copy_(counts, tensor(gradients.map((gradient) => (gradient === null ? 0 : 1))));
        for (const { parameter } of this.#plan.slots) parameter.grad = null; // its memory goes; finish() gives another
      }),
    );
    this.#work = this.#group.allReduce(whole, this.#op);
  }

  /** Waits for the reduction and hands the results to the parameters. */
  async finish(): Promise<void> {
    if (this.#work === null) return;
    const work = this.#work;
    this.#work = null;
    await work.done();
    const { views, counts } = this.#flat!;
    // A plan on meta tensors has no counts: every parameter is taken to have a gradient.
    const had = counts.device === 'meta' ? null : await counts.data();
    for (const [i, { parameter }] of this.#plan.slots.entries()) {
      const view = views[i]!;
      scope(() => {
        if (had?.[i] === 0) parameter.grad = null;
        else parameter.grad = view.dtype === parameter.dtype ? view : ops._to_copy(view, { dtype: parameter.dtype });
      });
    }
    const rows = this.#rows;
    if (rows !== null) {
      await rows.work.done();
      const { parameter } = this.#plan.slots[0]!;
      scope(() => {
        parameter.grad ??= noGrad(() => ops.zeros_like(parameter)); // no head had labels
        rows.land(ops.view(parameter.grad!, [-1]), 0);
      });
    }
    this.dispose();
  }

  /** Waits for what is on its way, and drops it. */
  async abandon(): Promise<void> {
    const works = [this.#work, this.#rows?.work];
    this.#work = null;
    for (const work of works) await work?.done();
    this.dispose();
  }

  /** Lets go of the flat memory; gradients that are views of it keep it. */
  dispose(): void {
    this.table?.dispose();
    this.#rows?.dispose();
    this.#rows = null;
    if (this.#flat === null) return;
    const { views, counts, whole } = this.#flat;
    for (const t of [...views, counts, whole]) t.dispose();
    this.#flat = null;
  }
}

function makeFlat({ slots, numel }: BucketPlan, dtype: DType): Flat {
  const { device } = slots[0]!.parameter;
  return owned(() => {
    const whole = ops.empty([numel + slots.length], { dtype, device }); // #launch fills it
    const views = slots.map(({ parameter, offset, numel: n }) =>
      ops.view(ops.narrow(whole, 0, offset, n), parameter.shape),
    );
    return { whole, views, counts: ops.narrow(whole, 0, numel, slots.length) };
  });
}
