// A group: ranks that communicate, and the door to their collectives. A group of one needs no engine and no network:
// every operation on it completes at once, so that no caller asks whether it is distributed.
//
// States of a group: open -> failed (a peer died or a deadline passed; every later operation says so) -> destroyed.
// Not here: opening groups (create-group.ts).
import { native, raw } from '../core/binding.js';
import { ShardloopError, type Tensor, tensor } from '../core/index.js';
import { type Backend, checkRank, type Member, type ReduceOp } from './checks.js';
import type { AllToAllRows } from './collectives.js';
import * as collectives from './collectives.js';
import { allGatherObject, broadcastObject } from './objects.js';
import type { Collective, Traffic } from './traffic.js';
import type { Work } from './work.js';

/** Where a group was opened: what a group within it needs. */
export interface GroupPlace {
  /** The native store. */
  readonly store: number;
  /** Whether destroying the group closes the store. */
  readonly owned: boolean;
  /** The prefix of the group's keys in the store. */
  readonly place: string;
  readonly device: string;
  readonly timeoutSeconds: number;
  /** 'shm' was not asked for by name: where memory cannot be shared, Gloo is as good. */
  readonly mayFallBack: boolean;
}

const details = new WeakMap<Group, { wire: collectives.Wire; place: GroupPlace | null }>();

/** What create-group.ts and the tests look at. */
export function internals(group: Group): Omit<GroupPlace, 'store' | 'owned'> & {
  wire: collectives.Wire;
  store: number | null;
} {
  const { wire, place } = details.get(group)!;
  const { store = null, place: prefix = '', device = '', timeoutSeconds = 600, mayFallBack = false } = place ?? {};
  return { wire, store, place: prefix, device, timeoutSeconds, mayFallBack };
}

/** Ranks that communicate. Every rank must call the same operations in the same order. */
export class Group {
  readonly #wire: collectives.Wire;
  readonly #device: string;
  readonly #place: GroupPlace | null;

  /** Internal: groups come from init(), createGroup(), subgroup() and mesh(). */
  constructor(member: Member & { readonly id: number | null }, device: string, place: GroupPlace | null) {
    if (typeof member !== 'object') {
      throw new ShardloopError('BAD_ARGUMENT', 'groups come from init(), createGroup(), subgroup() and mesh()');
    }
    this.#wire = { ...member, sequence: 0, destroyed: false, failure: null, traffic: new Map() };
    this.#device = device;
    this.#place = place;
    details.set(this, { wire: this.#wire, place });
  }

  /** This process's place, 0 to size - 1; -1 where it is not a member. */
  get rank(): number {
    return this.#wire.rank;
  }

  /** How many ranks there are. */
  get size(): number {
    return this.#wire.size;
  }

  /** The name that messages show. */
  get name(): string {
    return this.#wire.name;
  }

  /** The members' ranks in the world, in the order of this group. */
  get ranks(): readonly number[] {
    return this.#wire.within?.ranks ?? Array.from({ length: this.size }, (_, rank) => rank);
  }

  /** What was sent so far, by kind of operation. */
  get traffic(): ReadonlyMap<Collective, Readonly<Traffic>> {
    return this.#wire.traffic;
  }

  /** The engine below; 'none' for a group of one. */
  get backend(): Backend {
    return this.#wire.backend;
  }

  /** Whether {@link destroy} was called. */
  get isDestroyed(): boolean {
    return this.#wire.destroyed;
  }

  /**
   * Reduces each tensor in place over all ranks. `op` is 'sum' (the default), 'avg', 'min', 'max' or 'product'.
   * Throws BAD_ARGUMENT before the wire; the Work's error is COLLECTIVE_FAILED.
   */
  allReduce(tensors: Tensor | readonly Tensor[], op: ReduceOp = 'sum'): Work {
    return collectives.allReduce(this.#wire, tensors, op);
  }

  /** Reduces `tensor` over all ranks into that of `root` (default 0); the others keep theirs. Throws as {@link allReduce}. */
  reduce(tensor: Tensor, root = 0, op: ReduceOp = 'sum'): Work {
    return collectives.reduce(this.#wire, tensor, root, op);
  }

  /** Overwrites each tensor with that of `root` (default 0). Throws as {@link allReduce}. */
  broadcast(tensors: Tensor | readonly Tensor[], root = 0): Work {
    return collectives.broadcast(this.#wire, tensors, root);
  }

  /**
   * Fills `output` (size * n, ...) with every rank's `input` (n, ...) in the order of ranks; given lists, pair by pair in
   * one operation. Throws as {@link allReduce}.
   */
  allGather(output: Tensor | readonly Tensor[], input: Tensor | readonly Tensor[]): Work {
    return collectives.allGather(this.#wire, output, input);
  }

  /**
   * Fills outputs[r] with rank r's `input`: shapes may differ by rank, and outputs[r] has that of rank r's input.
   * Throws as {@link allReduce}.
   */
  allGatherUneven(outputs: readonly Tensor[], input: Tensor): Work {
    return collectives.allGatherUneven(this.#wire, outputs, input);
  }

  /**
   * Fills `output` (n, ...) with this rank's rows of the reduction of all `input`s (size * n, ...); given lists, pair by
   * pair in one operation. Throws as {@link allReduce}.
   */
  reduceScatter(output: Tensor | readonly Tensor[], input: Tensor | readonly Tensor[], op: ReduceOp = 'sum'): Work {
    return collectives.reduceScatter(this.#wire, output, input, op);
  }

  /**
   * Sends the r-th of `size` parts of `input`'s rows (axis 0) to rank r, and puts what rank r sends into the r-th part of
   * `output`. The parts are equal, or have the rows that are given. Throws as {@link allReduce}.
   */
  allToAll(output: Tensor, input: Tensor, rows?: AllToAllRows): Work {
    return collectives.allToAll(this.#wire, output, input, rows);
  }

  /**
   * Fills `output` (size * n, ...) of rank `root` (default 0) with every rank's `input` (n, ...); the others pass null.
   * Throws as {@link allReduce}.
   */
  gather(output: Tensor | null, input: Tensor, root = 0): Work {
    return collectives.gather(this.#wire, output, input, root);
  }

  /**
   * Fills `output` (n, ...) with this rank's part of the `input` (size * n, ...) of rank `root` (default 0); the others
   * pass null. Throws as {@link allReduce}.
   */
  scatter(output: Tensor, input: Tensor | null, root = 0): Work {
    return collectives.scatter(this.#wire, output, input, root);
  }

  /** Sends `tensor` to rank `to`, which receives it with the same `tag` (default 0). Throws as {@link allReduce}. */
  send(tensor: Tensor, to: number, tag = 0): Work {
    return collectives.send(this.#wire, tensor, to, tag);
  }

  /**
   * Overwrites `tensor` with what rank `from` sends with the same `tag` (default 0): as many elements of the same dtype.
   * Throws as {@link allReduce}.
   */
  receive(tensor: Tensor, from: number, tag = 0): Work {
    return collectives.receive(this.#wire, tensor, from, tag);
  }

  /** Completes when every rank has called it. */
  barrier(): Work {
    return collectives.barrier(this.#wire);
  }

  /** The sum of every rank's number, in double precision, on every rank. Rejects as {@link allReduce}. */
  async sum(value: number): Promise<number> {
    collectives.usable(this.#wire, 'sum');
    if (this.size === 1) return value;
    const total = tensor(Float64Array.of(value), { device: this.#device });
    try {
      await this.allReduce(total).done();
      return Number(await total.item());
    } finally {
      total.dispose();
    }
  }

  /** The value of rank `root` (default 0) on every rank: anything that structured serialization takes. */
  broadcastObject<T>(value: T, root = 0): Promise<T> {
    return broadcastObject(this.#wire, this.#device, value, root);
  }

  /** Every rank's value, in the order of ranks, on every rank. */
  allGatherObject<T>(value: T): Promise<T[]> {
    return allGatherObject(this.#wire, this.#device, value);
  }

  /** Every rank's value, in the order of ranks, on rank `root` (default 0); null elsewhere. */
  async gatherObject<T>(value: T, root = 0): Promise<T[] | null> {
    checkRank(this.#wire, 'gatherObject', 'root', root);
    const all = await this.allGatherObject(value);
    return this.rank === root ? all : null;
  }

  /**
   * Closes the connections; later operations are refused. Resolves when they are closed, or at once when operations are
   * still in flight: these end by themselves, by their peers or their timeout, and do not hold the process.
   */
  async destroy(): Promise<void> {
    if (this.#wire.destroyed) return;
    this.#wire.destroyed = true;
    if (this.#wire.id === null) return;
    const failed = this.#wire.failure !== null;
    const [work, inFlight] = raw('shardloop::group_close', this.#wire.id, failed) as [number, number];
    if (inFlight === 0) await native().workPromise(work);
    else raw('shardloop::work_release', work);
    if (this.#place?.owned) raw('shardloop::store_close', this.#place.store);
  }
}
