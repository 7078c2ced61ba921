// How the gradients of a model are laid out for reduction: flat buffers ("buckets"), filled in the order in which the
// backward completes gradients. Pure planning over shapes; replicate.ts owns the memory and the communication.
import { dtypeBytes, type Tensor } from '../core/index.js';
import { type Segment, segmentParameters } from '../nn/index.js';

/** A parameter's place in its bucket. */
export interface Slot {
  readonly parameter: Tensor;
  /** Where it starts, in elements. */
  readonly offset: number;
  readonly numel: number;
}

/** Parameters of one dtype and device whose gradients travel together. */
export interface BucketPlan {
  readonly slots: readonly Slot[];
  /** Elements of all slots. */
  readonly numel: number;
  /** Behind which segment's backward all its gradients are complete. */
  readonly readyAt: number;
}

/**
 * Plans buckets of at least one parameter and at most `bucketBytes`. A parameter that several segments read (a tied
 * weight) is complete behind the last of them to run backward: the one with the lowest index.
 */
export function planBuckets(segments: readonly Segment[], bucketBytes: number): BucketPlan[] {
  const readyAt = new Map<Tensor, number>();
  for (const [k, segment] of segments.entries()) {
    for (const parameter of segmentParameters(segment)) {
      if (parameter.requiresGrad && !readyAt.has(parameter)) readyAt.set(parameter, k);
    }
  }
  const buckets: BucketPlan[] = [];
  const open = new Map<string, { slots: Slot[]; numel: number; bytes: number; readyAt: number }>();
  for (let k = segments.length - 1; k >= 0; k--) {
    for (const parameter of [...readyAt.keys()].filter((p) => readyAt.get(p) === k)) {
      const kind = `${parameter.dtype} ${parameter.device}`;
      const { numel } = parameter;
      const bytes = numel * dtypeBytes(parameter.dtype);
      let bucket = open.get(kind);
      if (bucket !== undefined && bucket.bytes + bytes > bucketBytes) {
        buckets.push(bucket);
        bucket = undefined;
      }
      bucket ??= { slots: [], numel: 0, bytes: 0, readyAt: k };
      open.set(kind, bucket);
      bucket.slots.push({ parameter, offset: bucket.numel, numel });
      bucket.numel += numel;
      bucket.bytes += bytes;
      bucket.readyAt = k;
    }
  }
  // Launched in this order on every rank: by readiness, and by plan where several are ready at once.
  return [...buckets, ...open.values()].sort((a, b) => b.readyAt - a.readyAt);
}
