// The memory of some parameters that are sharded together: one flat buffer of which the parameters are views, cut into
// equal shards, one a rank.
//
// States of the flat buffer:
//   released   (stage 3) its storage has no memory; only the shard, in memory of its own, holds values
//   stale      (stages 1 and 2) the shards have new values, the others' parts of the buffer are old
//   coming     an all-gather is filling it
//   whole      every parameter can be read
// start(): released or stale -> coming. complete(): -> whole. leave(): whole -> released, in stage 3. outdate(): whole ->
// stale. The storage stays the same object, so that what autograd saved of a parameter finds its memory again; and a
// parameter has a version counter of its own, so that autograd does not take a gather for an update.
import { call, type DType, keep, noGrad, ops, ShardloopError, scope, type Tensor } from '../core/index.js';
import type { Group, Work } from '../dist/index.js';
import type { BucketPlan } from './buckets.js';
import { type Offload, onHost } from './offload.js';
import type { Part } from './strategy.js';

/** A shard is a multiple of this many elements, so that every rank's begins where vector instructions like it. */
const ALIGNMENT = 16;

/** How a unit's parameters come into its flat buffer. */
export interface UnitOptions {
  /** Whether the buffer has memory only while it is needed. */
  readonly releases: boolean;
  /** Writes the values of a parameter on the meta device into its place in the buffer. */
  readonly fill?: (parameter: Tensor, into: Tensor) => void;
  /** Where the buffer of parameters on the meta device is; default: 'cpu'. */
  readonly device?: string;
  /** What lies in host memory instead of the buffer's device. */
  readonly offload?: Offload;
  /** Over which groups, one after the other, rank 0's values are copied to the others first. */
  readonly sources: readonly Group[];
}

export class ShardedUnit {
  readonly plan: BucketPlan;
  /** Elements of a shard; the last shards may end in padding, which is zero. */
  readonly shardSize: number;
  readonly dtype: DType;
  /** Of the buffer. */
  readonly device: string;
  readonly offload: Offload | undefined;
  /** What this rank holds of each slot; a slot of another rank's shard has an empty part. */
  readonly parts: readonly Part[];
  readonly #group: Group;
  readonly #releases: boolean;
  readonly #flat: Tensor; // (size * shardSize)
  readonly #shard: Tensor; // (shardSize): what a gather sends; a view of the buffer, or in stage 3 memory of its own
  readonly #values: Tensor; // (shardSize): what the parts are views of; the shard, or with offload its twin on the host
  readonly #bytes: number;
  #work: Work | null = null;
  #whole = true;
  /** The segments that asked for it and have not left it. */
  readonly #wantedBy = new Set<number>();

  /**
   * Collective. Moves the parameters of `plan` into the flat buffer. The parameters stay the same Tensor objects, but for
   * those on the meta device that are filled: the slots of this unit's `plan` have new ones.
   */
  constructor(plan: BucketPlan, group: Group, options: UnitOptions) {
    const { releases, sources, fill, device: filledOn = 'cpu', offload } = options;
    this.#group = group;
    this.#releases = releases;
    this.offload = offload;
    this.shardSize = Math.ceil(plan.numel / group.size / ALIGNMENT) * ALIGNMENT;
    const { shardSize } = this;
    const { dtype, device: given } = plan.slots[0]!.parameter;
    const device = given === 'meta' && fill !== undefined ? filledOn : given;
    const [flat, shard, values, parts, parameters] = keep(
      noGrad(() =>
        scope(() => {
          const flat = ops.empty([shardSize * group.size], { dtype, device });
          const parameters = plan.slots.map(({ parameter, offset, numel }) => {
            const home = ops.view(ops.narrow(flat, 0, offset, numel), parameter.shape);
            const isFilled = device !== given;
            if (isFilled) fill!(parameter, home);
            else ops.copy_(home, parameter);
            const here = isFilled ? ops.empty([0], { dtype, device }) : parameter;
            call('aten::set_data', here, home); // its old memory goes
            return here;
          });
          ops.zero_(ops.narrow(flat, 0, plan.numel, flat.numel - plan.numel));
          for (const ranks of sources) ranks.broadcast(flat).wait();
          const own = ops.narrow(flat, 0, group.rank * shardSize, shardSize);
          const shard = releases && offload !== 'parameters' ? ops.clone(own) : own;
          const values = offload === undefined ? shard : onHost(own);
          const parts = plan.slots.map(({ offset, numel }) => {
            const begin = group.rank * shardSize;
            const from = Math.min(Math.max(begin, offset), offset + numel);
            const to = Math.max(from, Math.min(begin + shardSize, offset + numel));
            return {
              tensor: ops.narrow(values, 0, Math.min(Math.max(from - begin, 0), shardSize), to - from),
              start: from - offset,
            };
          });
          return [flat, shard, values, parts, parameters] as const;
        }),
      ),
    );
    this.plan = { ...plan, slots: plan.slots.map((slot, i) => ({ ...slot, parameter: parameters[i]! })) };
    this.dtype = dtype;
    this.device = device;
    this.#flat = flat;
    this.#shard = shard;
    this.#values = values;
    this.parts = parts;
    this.#bytes = flat.storageBytes;
    if (releases) this.#release();
  }

  /** Segment k will need it: begins to gather, unless it is whole or coming. Every rank alike. */
  start(k: number): void {
    this.#wantedBy.add(k);
    if (this.#whole || this.#work !== null) return;
    if (this.#releases) call('shardloop::resize_storage_', this.#flat, this.#bytes);
    if (this.offload === 'parameters') this.#fetch();
    this.#work = this.#group.allGather(this.#flat, this.#shard);
  }

  /** Waits until it is whole. Throws COLLECTIVE_FAILED as the gather does. */
  complete(): void {
    if (this.#whole) return;
    if (this.#work === null) throw new ShardloopError('BAD_ARGUMENT', 'complete() came before start()');
    this.#work.wait();
    this.#work = null;
    this.#whole = true;
  }

  /** Segment k has run. */
  leave(k: number): void {
    this.#wantedBy.delete(k);
    if (!this.#releases || this.#wantedBy.size > 0 || !this.#whole) return;
    this.#release();
  }

  /** {@link Strategy.assemble} for those of the unit's parameters that `indexOf` knows. Every rank alike. */
  assemble(
    indexOf: (parameter: Tensor) => number | undefined,
    values: readonly Tensor[],
    use: (index: number, whole: Tensor, start: number) => void,
  ): void {
    const { slots } = this.plan;
    const wanted = slots.map(({ parameter }) => indexOf(parameter));
    const first = wanted.find((index) => index !== undefined);
    if (first === undefined) return;
    noGrad(() =>
      scope(() => {
        const { device, dtype } = values[first]!; // of the host, with offload; the group communicates on the buffer's
        const own = ops.zeros([this.shardSize], { dtype, device: this.device });
        const begin = this.#group.rank * this.shardSize;
        for (const [i, { tensor, start }] of this.parts.entries()) {
          if (wanted[i] === undefined || tensor.numel === 0) continue;
          ops.copy_(ops.narrow(own, 0, slots[i]!.offset + start - begin, tensor.numel), values[wanted[i]]!);
        }
        const all = ops.new_empty(own, [this.shardSize * this.#group.size]);
        this.#group.allGather(all, own).wait();
        for (const [i, { tensor, start }] of this.parts.entries()) {
          if (wanted[i] === undefined || tensor.numel === 0) continue;
          const { parameter, offset, numel } = slots[i]!;
          const whole = ops.view(ops.narrow(all, 0, offset, numel), parameter.shape);
          use(wanted[i], device === this.device ? whole : ops._to_copy(whole, { device }), start);
        }
      }),
    );
  }

  /** The shards have new values. */
  outdate(): void {
    if (this.#work !== null) this.complete();
    if (this.offload === 'optimizer') this.#fetch();
    if (!this.#whole) return;
    if (this.#releases) this.#release();
    else this.#whole = false;
  }

  /** The values of the host into the shard; the stream of the device orders it before the gather. */
  #fetch(): void {
    noGrad(() => scope(() => ops.copy_(this.#shard, this.#values, { non_blocking: true })));
  }

  #release(): void {
    call('shardloop::resize_storage_', this.#flat, 0);
    this.#whole = false;
  }

  /** Frees the buffers. */
  dispose(): void {
    for (const { tensor } of this.parts) tensor.dispose();
    for (const t of new Set([this.#values, this.#shard, this.#flat])) t.dispose();
  }
}
