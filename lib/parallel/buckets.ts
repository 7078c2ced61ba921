// How the parameters of a model are laid out in flat buffers: for replication the gradients that travel together, for
// sharding the units that are gathered and released together. Pure planning over shapes; who owns the memory and the
// communication stands in replicate.ts and zero.ts.
import { dtypeBytes, type Tensor } from '../core/index.js';
import { type Segment, segmentParameters } from '../nn/index.js';

/** A parameter's place in its bucket. */
export interface Slot {
  readonly parameter: Tensor;
  /** Where it starts, in elements. */
  readonly offset: number;
  readonly numel: number;
}

/** Parameters of one dtype and device that travel together. */
export interface BucketPlan {
  readonly slots: readonly Slot[];
  /** Elements of all slots. */
  readonly numel: number;
  /** Behind which segment's backward all its gradients are complete. */
  readonly readyAt: number;
  /** The segments that read any of its parameters, ascending. */
  readonly segments: readonly number[];
  /** Whether its parameters require grad: all or none of them do. */
  readonly trains: boolean;
  /** The head of a tied table, which has a bucket of its own (tied-table.ts); else null. */
  readonly headAt: number | null;
}

/** Options of {@link planBuckets}. */
export interface BucketOptions {
  /** The most bytes of a bucket with more than one parameter. */
  bytes: number;
  /** Only parameters that the same segments read share a bucket. Default false. */
  bySegment?: boolean;
  /** Frozen parameters have buckets of their own; else they have none. Default false. */
  frozen?: boolean;
  /** Tied tables, by the segment of their head; each has a bucket of its own. Default: none. */
  tables?: ReadonlyMap<Tensor, number>;
}

/**
 * Plans buckets of at least one parameter and at most `bytes`, in the order in which the backward completes them. A
 * parameter that several segments read (a tied weight) is complete behind the last of them to run backward: the one with
 * the lowest index.
 */
export function planBuckets(segments: readonly Segment[], options: BucketOptions): BucketPlan[] {
  const { bytes: limit, bySegment = false, frozen = false, tables } = options;
  const readers = new Map<Tensor, number[]>();
  for (const [k, segment] of segments.entries()) {
    for (const parameter of segmentParameters(segment)) {
      if (!frozen && !parameter.requiresGrad) continue;
      const known = readers.get(parameter);
      if (known === undefined) readers.set(parameter, [k]);
      else known.push(k);
    }
  }
  const buckets: BucketPlan[] = [];
  const open = new Map<string, Filling>();
  for (let k = segments.length - 1; k >= 0; k--) {
    for (const [parameter, readBy] of readers) {
      if (readBy[0] !== k) continue;
      const trains = parameter.requiresGrad;
      const headAt = tables?.get(parameter) ?? null;
      const apart = headAt === null ? '' : `table ${open.size}`;
      const kind = [parameter.dtype, parameter.device, trains, bySegment ? readBy : '', apart].join(' ');
      const { numel } = parameter;
      const bytes = numel * dtypeBytes(parameter.dtype);
      let bucket = open.get(kind);
      if (bucket !== undefined && bucket.bytes + bytes > limit) {
        buckets.push(plan(bucket));
        bucket = undefined;
      }
      bucket ??= { slots: [], numel: 0, bytes: 0, readyAt: k, segments: new Set(), trains, headAt };
      open.set(kind, bucket);
      bucket.slots.push({ parameter, offset: bucket.numel, numel });
      bucket.numel += numel;
      bucket.bytes += bytes;
      bucket.readyAt = k;
      for (const reader of readBy) bucket.segments.add(reader);
    }
  }
  // Launched in this order on every rank: by readiness, and by plan where several are ready at once.
  return [...buckets, ...[...open.values()].map(plan)].sort((a, b) => b.readyAt - a.readyAt);
}

interface Filling {
  slots: Slot[];
  numel: number;
  bytes: number;
  readyAt: number;
  segments: Set<number>;
  trains: boolean;
  headAt: number | null;
}

function plan({ slots, numel, readyAt, segments, trains, headAt }: Filling): BucketPlan {
  return { slots, numel, readyAt, segments: [...segments].sort((a, b) => a - b), trains, headAt };
}
