// Data parallelism by replication: every rank holds the whole model and sees other records; gradients are summed over the
// ranks in flat buckets, each launched as soon as the backward has completed it, while the backward goes on.
//
// States of a bucket: idle -> in flight (from reduce(k) behind its last gradient) -> idle (finish: the parameters'
// gradients are views of its buffer from now on, until the optimizer drops them).
import { type DType, keep, noGrad, ops, ShardloopError, scope, type Tensor, tensor, zeros } from '../core/index.js';
import type { Group, Work } from '../dist/index.js';
import type { Segment } from '../nn/index.js';
import { checkAlike } from './alike.js';
import { type BucketPlan, planBuckets } from './buckets.js';
import { alone, type Strategy } from './strategy.js';

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
 * Throws BAD_ARGUMENT when the ranks' parameters do not match, or when finish() was left out.
 */
export function replicate(segments: readonly Segment[], group: Group, options: ReplicateOptions = {}): Strategy {
  const {
    op = 'sum',
    broadcast = true,
    reduceDtype,
    bucketBytes = (group.backend === 'nccl' ? 25 : 4) * MIB,
  } = options;
  if (!(bucketBytes > 0)) {
    throw new ShardloopError('BAD_ARGUMENT', `replicate: expected bucketBytes to be positive, received ${bucketBytes}`);
  }
  if (reduceDtype !== undefined && reduceDtype !== 'float32' && reduceDtype !== 'bfloat16') {
    const received = String(reduceDtype);
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `replicate: expected reduceDtype to be 'float32' or 'bfloat16', received ${received}`,
    );
  }
  if (group.size === 1) return alone;
  const plans = planBuckets(segments, { bytes: bucketBytes });
  checkAlike('replicate', plans, group);
  if (broadcast) for (const { slots } of plans) group.broadcast(slots.map((slot) => slot.parameter)).wait();
  const buckets = plans.map((plan) => new Bucket(plan, reduceDtype));
  return {
    ...alone,
    reduce(k, last) {
      if (last) for (const bucket of buckets) if (bucket.readyAt === k) bucket.launch(group, op);
    },
    async finish() {
      for (const bucket of buckets) await bucket.finish();
    },
    dispose() {
      for (const bucket of buckets) bucket.dispose();
    },
  };
}

/** Flat memory for the gradients of some parameters, and behind them a count for each of the ranks that had one. */
class Bucket {
  readonly readyAt: number;
  readonly #plan: BucketPlan;
  readonly #flat: Tensor; // (numel + slots)
  readonly #views: readonly Tensor[]; // one for each slot, in its parameter's shape
  readonly #counts: Tensor; // (slots)
  #work: Work | null = null;

  constructor(plan: BucketPlan, reduceDtype?: DType) {
    const { dtype: own, device } = plan.slots[0]!.parameter;
    const dtype = reduceDtype ?? own;
    this.readyAt = plan.readyAt;
    this.#plan = plan;
    [this.#flat, this.#counts, this.#views] = keep(
      scope(() => {
        const flat = zeros([plan.numel + plan.slots.length], { dtype, device });
        const views = plan.slots.map(({ parameter, offset, numel }) =>
          ops.view(ops.narrow(flat, 0, offset, numel), parameter.shape),
        );
        return [flat, ops.narrow(flat, 0, plan.numel, plan.slots.length), views] as const;
      }),
    );
  }

  /** Moves the gradients in, and starts to reduce them. */
  launch(group: Group, op: 'sum' | 'avg'): void {
    if (this.#work !== null) {
      throw new ShardloopError('BAD_ARGUMENT', 'replicate: reduce() came again before finish() was awaited');
    }
    scope(() =>
      noGrad(() => {
        const gradients = this.#plan.slots.map(({ parameter }) => parameter.grad);
        const present = gradients.flatMap((gradient, i) => (gradient === null ? [] : [i]));
        const missing = this.#views.filter((_, i) => gradients[i] === null);
        if (missing.length > 0) ops._foreach_zero_(missing);
        if (present.length > 0) {
          ops._foreach_copy_(
            present.map((i) => this.#views[i]!),
            present.map((i) => gradients[i]!),
          );
        }
        const had = tensor(gradients.map((gradient) => (gradient === null ? 0 : 1)));
        ops.copy_(this.#counts, had);
        for (const { parameter } of this.#plan.slots) parameter.grad = null; // its memory goes; finish() gives another
      }),
    );
    this.#work = group.allReduce(this.#flat, op);
  }

  dispose(): void {
    for (const t of [...this.#views, this.#counts, this.#flat]) t.dispose();
  }

  /** Waits for the reduction and hands the results to the parameters. */
  async finish(): Promise<void> {
    if (this.#work === null) return;
    const work = this.#work;
    this.#work = null;
    await work.done();
    // A plan on meta tensors has no counts: every parameter is taken to have a gradient.
    const counts = this.#counts.device === 'meta' ? null : await this.#counts.data();
    for (const [i, { parameter }] of this.#plan.slots.entries()) {
      const view = this.#views[i]!;
      scope(() => {
        if (counts?.[i] === 0) parameter.grad = null;
        else parameter.grad = view.dtype === parameter.dtype ? view : ops._to_copy(view, { dtype: parameter.dtype });
      });
    }
  }
}
