// Process groups: the ranks that communicate, and the door to their collectives. A group of one needs no engine and no
// network: every operation on it completes at once, so that no caller asks whether it is distributed.
//
// States of a group: open -> failed (a peer died or a deadline passed; every later operation says so) -> destroyed.
// Not here: which process this is (environment.ts), starting processes (launch.ts).
import { native, raw } from '../core/binding.js';
import { describe, ShardloopError, type Tensor, tensor } from '../core/index.js';
import { type Backend, misuse, plain, type ReduceOp } from './checks.js';
import * as collectives from './collectives.js';
import { type LaunchEnvironment, readEnvironment } from './environment.js';
import { recordUncaughtFailures } from './failure-report.js';
import { allGatherObject, broadcastObject } from './objects.js';
import type { Work } from './work.js';

/** Where the ranks of a new group find each other. */
export type StoreAddress =
  /** A store over TCP; `serve` on the one process that holds it. */
  | { readonly host: string; readonly port: number; readonly serve?: boolean }
  /** A store inside this process, for ranks that are worker threads of it. */
  | { readonly inProcess: string };

/** What describes a new group; the same on every rank, except for `rank` and `device`. */
export interface GroupOptions {
  readonly rank: number;
  readonly size: number;
  readonly store: StoreAddress;
  /** For messages and for keys in the store. Default 'world'. */
  readonly name?: string;
  /** Default 'gloo'. */
  readonly backend?: 'gloo' | 'nccl';
  /** The device of an 'nccl' group: 'cuda:0'. */
  readonly device?: string;
  /** After how many seconds of waiting, for a peer or for a collective, the group fails. Default 600. */
  readonly timeoutSeconds?: number;
  /** Set apart from earlier groups of this name in the same store, such as those before a restart. Default ''. */
  readonly generation?: string;
  /** All ranks run on this host, so that Gloo may use the loopback. Default: only with an in-process store. */
  readonly oneHost?: boolean;
}

/** What {@link init} takes; all of it is optional. */
export interface InitOptions {
  readonly backend?: 'gloo' | 'nccl';
  /** After how many seconds of waiting, for a peer or for a collective, the group fails. Default 600. */
  readonly timeoutSeconds?: number;
  /** Who this process is; default: what the launcher's variables say. */
  readonly environment?: LaunchEnvironment;
}

const DEFAULT_TIMEOUT_SECONDS = 600;

/** How many groups of a name this thread has made in a store: creation is collective, so every rank counts alike. */
const made = new Map<string, number>();

let world: { group: Group; options: string } | null = null;

/**
 * The group of all processes that were launched together (see readEnvironment), or a group of one. Called again, it
 * returns the same group until that is destroyed.
 * Throws BAD_LAUNCH when the environment is unusable or the peers do not come within the timeout, NO_CUDA for 'nccl'
 * without it.
 */
export async function init(options: InitOptions = {}): Promise<Group> {
  const signature = JSON.stringify(options);
  if (world !== null && !world.group.isDestroyed) {
    if (Object.keys(options).length === 0 || signature === world.options) return world.group;
    throw misuse(
      world.group,
      'init',
      `the world group exists with ${world.options}, received ${signature}; destroy it first`,
    );
  }
  recordUncaughtFailures();
  const launch = options.environment ?? readEnvironment();
  const { rank, size, masterAddr: host, masterPort: port } = launch;
  const serve = rank === 0 && !launch.agentStore;
  const group = await createGroup({
    rank,
    size,
    store: { host, port, serve },
    name: 'world',
    backend: options.backend,
    device: `cuda:${launch.localRank}`,
    timeoutSeconds: options.timeoutSeconds,
    generation: String(launch.restartCount),
    oneHost: launch.localSize === size,
  });
  world = { group, options: signature };
  return group;
}

/** Opens a group; every rank of it must. Throws as {@link init}. */
export async function createGroup(options: GroupOptions): Promise<Group> {
  const { rank, size, name = 'world', backend = 'gloo', timeoutSeconds = DEFAULT_TIMEOUT_SECONDS } = options;
  checkOptions(options);
  const group = { rank, size, name, sequence: 0, destroyed: false, failure: null };
  if (size === 1) return new Group({ ...group, backend: 'none', id: null }, 'cpu', null);
  const member = { ...group, backend };
  if (!raw('shardloop::backend_available', backend)) {
    if (backend === 'nccl') throw misuse(member, 'init', `backend 'nccl' is not here: ${cudaProblem()}`, 'NO_CUDA');
    throw misuse(member, 'init', `expected backend to be 'gloo' or 'nccl', received ${describe(backend)}`);
  }
  const place = JSON.stringify([storeKey(options.store), name]);
  const count = (made.get(place) ?? 0) + 1;
  made.set(place, count);
  const fail = (what: string, text: string) => misuse(member, 'init', `${what}: ${plain(text)}`, 'BAD_LAUNCH');
  const store = await openStore(options.store, timeoutSeconds, fail);
  const prefix = ['shardloop', options.generation ?? '', name, count].join('/');
  const device = backend === 'nccl' ? (options.device ?? 'cuda:0') : glooDevice(options);
  const [id, work] = raw('shardloop::group_open', store, prefix, backend, device, rank, size, timeoutSeconds) as [
    number,
    number,
  ];
  const error = await native().workPromise(work);
  if (error !== '') {
    raw('shardloop::store_close', store);
    throw fail(
      `the ${size} ranks did not find each other within ${timeoutSeconds} s; did one not start, or die?`,
      error,
    );
  }
  return new Group({ ...member, id }, backend === 'nccl' ? device : 'cpu', store);
}

function storeKey(address: StoreAddress): string {
  return 'inProcess' in address ? address.inProcess : `${address.host}:${address.port}`;
}

function cudaProblem(): string {
  return raw('shardloop::cuda_library_problem') as string;
}

function checkOptions(options: GroupOptions): void {
  const { rank, size, timeoutSeconds, name } = options;
  const member = { rank, size, name: name ?? 'world', backend: 'none' as const };
  if (!Number.isInteger(size) || size < 1)
    throw misuse(member, 'init', `expected size to be 1 or more, received ${describe(size)}`);
  if (!Number.isInteger(rank) || rank < 0 || rank >= size) {
    throw misuse(member, 'init', `expected rank to be from 0 to ${size - 1}, received ${describe(rank)}`);
  }
  if (timeoutSeconds !== undefined && !(timeoutSeconds > 0 && timeoutSeconds < 1e6)) {
    throw misuse(
      member,
      'init',
      `expected timeoutSeconds to be a positive number, received ${describe(timeoutSeconds)}`,
    );
  }
}

async function openStore(
  address: StoreAddress,
  timeoutSeconds: number,
  fail: (what: string, text: string) => ShardloopError,
): Promise<number> {
  if ('inProcess' in address) return raw('shardloop::store_in_process', address.inProcess) as number;

  const where = `${address.host}:${address.port}`;
  if (address.serve) {
    try {
      return raw('shardloop::store_serve', address.host, address.port, timeoutSeconds) as number;
    } catch (error) {
      throw fail(
        `could not serve the store on ${where}; is the port taken, or MASTER_ADDR another host?`,
        (error as Error).message,
      );
    }
  }
  const [store, work] = raw('shardloop::store_connect', address.host, address.port, timeoutSeconds) as [number, number];
  const error = await native().workPromise(work);
  if (error !== '')
    throw fail(`could not reach the store on ${where} within ${timeoutSeconds} s; did rank 0 start there?`, error);
  return store;
}

/** Which network Gloo takes: GLOO_SOCKET_IFNAME as in Python's torch, the loopback on one host, else the host's name. */
function glooDevice(options: GroupOptions): string {
  const interfaces = process.env.GLOO_SOCKET_IFNAME?.trim();
  if (interfaces) return `interface:${interfaces}`;
  return options.oneHost || 'inProcess' in options.store ? 'host:127.0.0.1' : '';
}

/** Ranks that communicate. Every rank must call the same operations in the same order. */
export class Group {
  readonly #wire: collectives.Wire;
  readonly #device: string;
  readonly #store: number | null;

  /** Internal: groups come from init() and createGroup(). */
  constructor(wire: collectives.Wire, device: string, store: number | null) {
    if (typeof wire !== 'object') throw new ShardloopError('BAD_ARGUMENT', 'groups come from init() and createGroup()');
    this.#wire = wire;
    this.#device = device;
    this.#store = store;
  }

  /** This process's place, 0 to size - 1. */
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

  /** Overwrites each tensor with that of `root` (default 0). Throws as {@link allReduce}. */
  broadcast(tensors: Tensor | readonly Tensor[], root = 0): Work {
    return collectives.broadcast(this.#wire, tensors, root);
  }

  /** Fills `output` (size * n, ...) with every rank's `input` (n, ...) in the order of ranks. Throws as {@link allReduce}. */
  allGather(output: Tensor, input: Tensor): Work {
    return collectives.allGather(this.#wire, output, input);
  }

  /** Fills `output` (n, ...) with this rank's rows of the reduction of all `input`s (size * n, ...). Throws as {@link allReduce}. */
  reduceScatter(output: Tensor, input: Tensor, op: ReduceOp = 'sum'): Work {
    return collectives.reduceScatter(this.#wire, output, input, op);
  }

  /** Completes when every rank has called it. */
  barrier(): Work {
    return collectives.barrier(this.#wire);
  }

  /** The sum of every rank's number, in double precision, on every rank. Rejects as {@link allReduce}. */
  async sum(value: number): Promise<number> {
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
    raw('shardloop::store_close', this.#store);
  }
}
