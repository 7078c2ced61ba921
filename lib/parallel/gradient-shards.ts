// The gradients of sharded units: full gradients are copied into a bucket, the bucket is reduced and scattered, and each
// rank keeps the sums of its own shard.
//
// States of a bucket: free -> scattering (reduce-scatter over the ranks of the shards) -> summing (hybrid only: all-reduce
// of the shard's part over its replicas) -> free. There are two buckets of a kind, so that one is filled while the other is
// on its way. Where both are, the launch waits for the older. A bucket holds the same piece of every rank's shard:
// whole (size, n), of which rank r receives row r. The gradient of a tied table (tied-table.ts), of which two buckets would
// hold a part only, leaves as it is where it fills its shards; it and the rows that follow take their turn without a bucket
// (table-flight.ts).
import { type DType, dtypeBytes, noGrad, ops, owned, scope, type Tensor, tensor, zeros } from '../core/index.js';
import type { Group, Work } from '../dist/index.js';
import { type Chunk, chunksOf, placeOf, sourceOf } from './chunks.js';
import { type Codec, type Compression, codecOf, emptyMemory } from './compress.js';
import { hostZeros } from './offload.js';
import type { ShardedUnit } from './sharded-unit.js';
import type { Part } from './strategy.js';
import { fillsShards, TableFlight } from './table-flight.js';
import { TiedTable } from './tied-table.js';

/** How gradients travel. */
export interface ReductionOptions {
  readonly op: 'sum' | 'avg';
  /** The most bytes that travel together. */
  readonly bucketBytes: number;
  /** In which dtype they travel; default: their own. */
  readonly dtype?: DType;
  /** Packs them into fewer bytes; they are float32 before. */
  readonly compression?: Compression;
  /** Whether the sums keep their memory from step to step; else they have it from the first reduction until the parts drop it. */
  readonly keepsSums: boolean;
}

interface UnitState {
  readonly unit: ShardedUnit;
  readonly table: TiedTable | null;
  readonly chunks: readonly Chunk[];
  /** This rank's sums of the step under way (shardSize), on the host with offload; see {@link ReductionOptions.keepsSums}. */
  sum: Tensor | null;
  /** Whether `sum` has gradients of this step. */
  holds: boolean;
  /** Which slots had a gradient on this rank in this step. */
  readonly had: boolean[];
}

interface Bucket {
  readonly whole: Tensor; // (size * most)
  readonly received: Tensor; // (most)
  flight: Flight | null;
}

interface Flight {
  readonly bucket: Bucket;
  readonly state: UnitState;
  readonly chunk: Chunk;
  /** Where the rank's row arrives: its place in the sum, or the bucket's own memory. */
  readonly target: Tensor; // (n)
  /** What came in packed; unpacked into the target as it is complete. */
  packed: Tensor | null;
  /** What becomes of a row in the bucket's own memory: it is added to its place in the sum, or copied there. */
  readonly landing: 'add' | 'copy' | null;
  work: Work;
  hop: 'scattering' | 'summing';
}

const BUCKETS_OF_A_KIND = 2;

export class GradientShards {
  readonly #states: readonly UnitState[];
  readonly #group: Group;
  readonly #replicas: Group | null;
  readonly #options: ReductionOptions;
  readonly #buckets = new Map<string, Bucket[]>();
  readonly #flights: (Flight | TableFlight)[] = []; // in the order of launch, which is the same on every rank

  /** `replicas`: the ranks that hold the same shards, whose sums are added too. */
  constructor(units: readonly ShardedUnit[], group: Group, replicas: Group | null, options: ReductionOptions) {
    this.#group = group;
    this.#replicas = replicas;
    this.#options = options;
    this.#states = units
      .filter(({ plan }) => plan.trains)
      .map((unit) => {
        const bytes = dtypeBytes(this.#wireDtype(unit));
        const most = Math.floor(options.bucketBytes / bytes / group.size);
        const chunks = chunksOf(unit, group.size, Math.max(1, Math.min(most, unit.shardSize)));
        const table = unit.plan.headAt === null ? null : new TiedTable(unit.plan, group);
        return { unit, table, chunks, sum: null, holds: false, had: unit.plan.slots.map(() => false) };
      });
  }

  /** Segment k is about to run forward. */
  begin(k: number): void {
    for (const { table } of this.#states) table?.begin(k);
  }

  /** Starts to reduce the gradients of the units that segment k completes, and drops them. */
  reduce(k: number): void {
    for (const state of this.#states) {
      const due = state.table === null ? state.unit.plan.readyAt === k && 'whole' : state.table.due(k);
      if (due === 'rows') {
        const [{ tensor: part, start }] = state.unit.parts as [Part];
        const sums = () => ({ sum: this.#sumsOf(state, 0, part, start), start });
        this.#flights.push(TableFlight.ofRows(state.table!, this.#options.op, sums));
        state.had[0] = true;
      }
      if (due !== 'whole') continue;
      this.#launch(state);
      state.table?.sent();
    }
  }

  #launch(state: UnitState): void {
    noGrad(() =>
      scope(() => {
        const { slots } = state.unit.plan;
        const gradients = slots.map(({ parameter }) => {
          const { grad } = parameter;
          return grad === null ? null : ops.reshape(grad, [-1]);
        });
        for (const [i, gradient] of gradients.entries()) if (gradient !== null) state.had[i] = true;
        const adds = state.holds;
        if (!adds && fillsShards(state.unit, this.#group.size)) {
          const sum = this.#sumOf(state);
          this.#flights.push(TableFlight.ofWhole(gradients[0] ?? null, sum, this.#group, this.#options.op));
          this.#advance();
        } else for (const chunk of state.chunks) this.#send(state, chunk, gradients, adds);
        state.holds = true;
        for (const { parameter } of slots) parameter.grad = null;
      }),
    );
  }

  #send(state: UnitState, chunk: Chunk, gradients: readonly (Tensor | null)[], accumulates: boolean): void {
    const bucket = this.#freeBucket(state.unit);
    const whole = ops.narrow(bucket.whole, 0, 0, this.#group.size * chunk.n);
    const present = chunk.copies.filter(({ slot }) => gradients[slot] !== null);
    const missing = chunk.copies.filter(({ slot }) => gradients[slot] === null);
    const empty = missing.map((copy) => placeOf(whole, copy));
    const padding = whole.numel - chunk.filled;
    if (padding > 0) empty.push(ops.narrow(whole, 0, chunk.filled, padding));
    if (empty.length > 0) ops._foreach_zero_(empty);
    const copies = present.map((copy) => {
      const source = sourceOf(gradients[copy.slot]!, copy, state.unit.shardSize);
      return { place: placeOf(whole, copy), source, isDense: copy.rows === 1 };
    });
    const dense = copies.filter(({ isDense }) => isDense);
    if (dense.length > 0) {
      ops._foreach_copy_(
        dense.map(({ place }) => place),
        dense.map(({ source }) => source),
      );
    }
    // On their own: one that is not dense would cost the others their common kernel on CUDA.
    for (const { place, source, isDense } of copies) if (!isDense) ops.copy_(place, source);
    const sum = this.#sumOf(state);
    const lands = accumulates || sum.dtype !== bucket.received.dtype || state.unit.offload !== undefined;
    const { compression } = this.#options;
    const target = owned(() =>
      lands ? ops.narrow(bucket.received, 0, 0, chunk.n) : ops.narrow(sum, 0, chunk.from, chunk.n),
    );
    const { packed, work } =
      compression === undefined
        ? { packed: null, work: this.#group.reduceScatter(target, whole, this.#options.op) }
        : this.#sendPacked(codecOf(compression), chunk, whole);
    const landing = lands ? (accumulates ? 'add' : 'copy') : null;
    bucket.flight = { bucket, state, chunk, target, packed, landing, work, hop: 'scattering' };
    this.#flights.push(bucket.flight);
    this.#advance();
  }

  /** Sends each rank the packed piece of its shard. */
  #sendPacked(codec: Codec, chunk: Chunk, whole: Tensor): { packed: Tensor; work: Work } {
    const { size } = this.#group;
    if (codec.remembers) chunk.memory ??= emptyMemory(size, chunk.n, whole.device);
    const sent = codec.pack(ops.view(whole, [size, chunk.n]), chunk.memory);
    const packed = owned(() => ops.empty_like(sent));
    return { packed, work: this.#group.allToAll(packed, sent) };
  }

  /** A piece has arrived: unpacks it, if it is packed. */
  #receive(flight: Flight | TableFlight): void {
    flight.work.wait(); // throws if it failed; with NCCL, orders the streams
    if (flight instanceof TableFlight || flight.packed === null) return;
    const { packed, chunk, target } = flight;
    noGrad(() =>
      scope(() => {
        const sum = codecOf(this.#options.compression!).unpack(packed, chunk.n);
        ops.copy_(target, this.#options.op === 'avg' ? ops.div(sum, this.#group.size) : sum);
      }),
    );
    packed.dispose();
    flight.packed = null;
  }

  #wireDtype(unit: ShardedUnit): DType {
    return this.#options.compression === undefined ? (this.#options.dtype ?? unit.dtype) : 'float32';
  }

  /** This rank's sums of a unit. Half-precision gradients that travel in float32 are kept so. */
  #sumOf(state: UnitState): Tensor {
    const { dtype: own, device, shardSize, offload } = state.unit;
    const isHalf = own === 'bfloat16' || own === 'float16';
    const dtype = isHalf && this.#wireDtype(state.unit) === 'float32' ? 'float32' : own;
    state.sum ??= owned(() =>
      offload === undefined ? zeros([shardSize], { dtype, device }) : hostZeros(shardSize, dtype, device),
    );
    return state.sum;
  }

  /** A bucket for the unit's kind; where none is free, the oldest is waited for. */
  #freeBucket(unit: ShardedUnit): Bucket {
    const dtype = this.#wireDtype(unit);
    const { device } = unit;
    const kind = `${dtype} ${device}`;
    let buckets = this.#buckets.get(kind);
    if (buckets === undefined) {
      const alike = this.#states.filter((s) => this.#wireDtype(s.unit) === dtype && s.unit.device === device);
      const most = Math.max(...alike.flatMap(({ chunks }) => chunks.map(({ n }) => n)));
      buckets = Array.from({ length: BUCKETS_OF_A_KIND }, () => ({
        whole: owned(() => ops.empty([this.#group.size * most], { dtype, device })),
        received: owned(() => ops.empty([most], { dtype, device })),
        flight: null,
      }));
      this.#buckets.set(kind, buckets);
    }
    while (true) {
      const free = buckets.find(({ flight }) => flight === null);
      if (free !== undefined) return free;
      this.#flights[0]!.work.wait();
      this.#advance();
    }
  }

  /** Takes every operation that is complete one hop on, oldest first, so that hops begin in one order on all ranks. */
  #advance(): void {
    const flights = this.#flights;
    if (this.#replicas !== null) {
      for (const flight of flights) {
        if (flight.hop === 'summing' || flight instanceof TableFlight) continue;
        if (!flight.work.isCompleted) break;
        this.#receive(flight);
        flight.work = this.#replicas.allReduce(flight.target, this.#options.op);
        flight.hop = 'summing';
      }
    }
    const lastHop = this.#replicas === null ? 'scattering' : 'summing';
    while (flights[0] !== undefined && flights[0].hop === lastHop && flights[0].work.isCompleted) {
      this.#receive(flights[0]);
      const flight = flights.shift()!;
      if (flight instanceof TableFlight) flight.land();
      else land(flight);
    }
  }

  /** This rank's sums of a slot's part: a view (n). */
  #sumsOf({ unit, sum }: UnitState, slot: number, part: Tensor, start: number): Tensor {
    if (part.numel === 0) return ops.narrow(sum!, 0, 0, 0);
    return ops.narrow(sum!, 0, unit.plan.slots[slot]!.offset + start - this.#group.rank * unit.shardSize, part.numel);
  }

  /** Waits for all sums of the step and hands them to the parts. A parameter without a gradient on any rank has none. */
  async finish(): Promise<void> {
    await this.#settle();
    // Reading the answer waits for the stream, and so for the copies to the host.
    const had = await this.#anywhere(this.#states.flatMap((state) => state.had));
    let i = 0;
    for (const state of this.#states) {
      for (const [slot, { tensor: part, start }] of state.unit.parts.entries()) {
        if (!had[i++] || part.numel === 0 || state.sum === null) {
          part.grad = null;
          continue;
        }
        scope(() => {
          part.grad = this.#sumsOf(state, slot, part, start);
        });
      }
      this.#close(state);
    }
  }

  /** Waits for what is on its way, and forgets the step: its sums, and what a codec that remembers kept of them. */
  async abandon(): Promise<void> {
    await this.#settle();
    for (const state of this.#states) {
      state.table?.dispose();
      this.#forgetUnsent(state);
      this.#close(state);
    }
  }

  async #settle(): Promise<void> {
    while (this.#flights.length > 0) {
      await this.#flights[0]!.work.done();
      this.#advance();
    }
  }

  /** A unit's sums of the step have been handed out, or are not wanted. */
  #close(state: UnitState): void {
    state.holds = false;
    state.had.fill(false);
    if (this.#options.keepsSums) return;
    state.sum?.dispose(); // the parts' gradients are views of it
    state.sum = null;
  }

  #forgetUnsent({ chunks }: UnitState): void {
    for (const chunk of chunks) {
      chunk.memory?.dispose();
      chunk.memory = null;
    }
  }

  /** Which of this rank's yes and no is yes on any rank. */
  async #anywhere(local: readonly boolean[]): Promise<boolean[]> {
    const own = this.#states[0]?.unit.device ?? 'cpu';
    const device = own.startsWith('cuda') ? own : 'cpu';
    const counts = owned(() => ops._to_copy(flags(local), { device }));
    try {
      for (const group of [this.#group, ...(this.#replicas ? [this.#replicas] : [])]) {
        await group.allReduce(counts, 'max').done();
      }
      return Array.from((await counts.data()) as Int32Array, (count) => count > 0);
    } finally {
      counts.dispose();
    }
  }

  dispose(): void {
    for (const state of this.#states) {
      state.table?.dispose();
      this.#forgetUnsent(state);
      state.sum?.dispose();
      state.sum = null;
    }
    for (const { whole, received } of [...this.#buckets.values()].flat()) {
      whole.dispose();
      received.dispose();
    }
    this.#buckets.clear();
  }
}

/** The rank's part of a bucket is summed: into its place with it, and the bucket is free. */
function land({ bucket, state, chunk, target, landing }: Flight): void {
  if (landing !== null) {
    noGrad(() =>
      scope(() => {
        const place = ops.narrow(state.sum!, 0, chunk.from, chunk.n);
        // A copy to the host goes on beside us; finish() waits for the device before anybody reads.
        if (landing === 'copy') ops.copy_(place, target, { non_blocking: true });
        else ops.add_(place, place.device === target.device ? target : ops._to_copy(target, { device: place.device }));
      }),
    );
  }
  target.dispose();
  bucket.flight = null;
}

function flags(values: readonly boolean[]): Tensor {
  return tensor(Int32Array.from(values, Number));
}
