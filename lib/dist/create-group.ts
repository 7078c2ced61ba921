// Opening groups: the world of a launch (init), any ranks that share a store (createGroup), and some ranks of a group that
// is there (subgroup). Not here: what a group does (group.ts), which process this is (environment.ts), starting processes
// (launch.ts), named axes of a world (mesh.ts).
import { setTimeout as sleep } from 'node:timers/promises';
import { native, raw } from '../core/binding.js';
import { describe, type ShardloopError } from '../core/index.js';
import { checkOptions, requireOptions } from '../core/options.js';
import { checkRank, type Member, misuse, plain } from './checks.js';
import { type LaunchEnvironment, readEnvironment } from './environment.js';
import { recordUncaughtFailures } from './failure-report.js';
import { Group, internals } from './group.js';
import { addressTowards } from './route.js';
import { openStore, type StoreAddress } from './store.js';

/** What describes a new group; the same on every rank, except for `rank` and `device`. */
export interface GroupOptions {
  readonly rank: number;
  readonly size: number;
  /** Where the ranks meet; a 'fake' group needs none. */
  readonly store?: StoreAddress;
  /** For messages and for keys in the store. Default 'world'. */
  readonly name?: string;
  /**
   * 'shm' is shared memory between CPU ranks of one host, with Gloo beside it for what it does not do. Default: 'shm' where
   * all ranks run on this host and can share memory, else 'gloo'. With 'fake' the other ranks do not exist: operations
   * complete, and bytes are counted.
   */
  readonly backend?: 'gloo' | 'shm' | 'nccl' | 'fake';
  /** The device of an 'nccl' group: 'cuda:0'. Of a 'fake' one how it completes: '' at once, 'delay:MS' later, 'hang' never. */
  readonly device?: string;
  /** After how many seconds of waiting, for a peer or for a collective, the group fails. Default 600. */
  readonly timeoutSeconds?: number;
  /** Set apart from earlier groups of this name in the same store, such as those before a restart. Default ''. */
  readonly generation?: string;
  /** All ranks run on this host, so that they may share memory or use the loopback. Default: only with an in-process store. */
  readonly oneHost?: boolean;
}

/** What {@link init} takes; all of it is optional. */
export interface InitOptions {
  /** Default: 'shm' where all ranks run on this host and can share memory, else 'gloo'. */
  readonly backend?: 'gloo' | 'shm' | 'nccl';
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
  checkOptions('init', options, ['backend', 'timeoutSeconds', 'environment']);
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
  requireOptions('createGroup', options);
  const { rank, size, name = 'world', timeoutSeconds = DEFAULT_TIMEOUT_SECONDS } = options;
  const backend = options.backend ?? (canShareMemory(options) ? 'shm' : 'gloo');
  const mayFallBack = options.backend === undefined;
  checkValues(options);
  // A group of one over NCCL in a store of this process is opened for real: to check the device and the library.
  const isCheck = backend === 'nccl' && options.store !== undefined && 'inProcess' in options.store;
  if (size === 1 && backend !== 'fake' && !isCheck)
    return new Group({ rank, size, name, backend: 'none', id: null }, 'cpu', null);
  const member: Member = { rank, size, name, backend };
  checkBackend(member);
  const fail = (what: string, text: string) => misuse(member, 'init', `${what}: ${plain(text)}`, 'BAD_LAUNCH');
  const address = options.store ?? (backend === 'fake' ? { inProcess: 'fake' } : undefined);
  if (address === undefined) throw misuse(member, 'init', 'expected a store where the ranks meet, received none');
  const prefix = ['shardloop', options.generation ?? '', name, next(JSON.stringify([storeKey(address), name]))].join(
    '/',
  );
  const device =
    backend === 'gloo' || backend === 'shm'
      ? await glooDevice(options)
      : (options.device ?? (backend === 'nccl' ? 'cuda:0' : ''));
  const end = performance.now() + timeoutSeconds * 1000;
  for (let left = timeoutSeconds; ; left = (end - performance.now()) / 1000) {
    const store = await openStore(address, left, fail);
    try {
      return await open(member, { store, owned: true, prefix, device, timeoutSeconds, mayFallBack }, fail);
    } catch (error) {
      raw('shardloop::store_close', store);
      // An earlier group's store on the same port may have been about to close: the next one is a moment away.
      const isLost = /recv|broken pipe|connection (was|reset|closed)/i.test((error as Error).message);
      const serves = 'inProcess' in address || address.serve === true;
      if (serves || !isLost || performance.now() + 1000 > end) throw error;
      await sleep(300);
    }
  }
}

/** What {@link subgroup} takes; all of it is optional. */
export interface SubgroupOptions {
  /** For messages. Default: the name of the group around. */
  readonly name?: string;
  /** Default: that of the group around. */
  readonly timeoutSeconds?: number;
}

/**
 * The group of some `ranks` of `group`, in their order, over connections of its own. Every member must call it, in the
 * same order as its other members; the others may: they get a group that refuses every operation.
 * Throws BAD_ARGUMENT for ranks that are not distinct ranks of the group, BAD_LAUNCH when members do not come in time.
 */
export async function subgroup(group: Group, ranks: readonly number[], options: SubgroupOptions = {}): Promise<Group> {
  const { wire, store, place, device, timeoutSeconds: inherited, mayFallBack } = internals(group);
  const operation = 'subgroup';
  if (wire.destroyed) throw misuse(wire, operation, 'the group is destroyed; make a new one');
  if (!Array.isArray(ranks) || ranks.length === 0) {
    throw misuse(wire, operation, `expected ranks as a list with at least one rank, received ${describe(ranks)}`);
  }
  for (const rank of ranks) checkRank(wire, operation, 'each of ranks', rank);
  if (new Set(ranks).size < ranks.length) {
    throw misuse(wire, operation, `expected each rank once, received [${ranks.join(', ')}]`);
  }
  const world = wire.within ?? { rank: wire.rank, size: wire.size, ranks: null };
  const inWorld = ranks.map((rank) => world.ranks?.[rank] ?? rank);
  const within = { rank: world.rank, size: world.size, ranks: inWorld };
  const { name = wire.name, timeoutSeconds = inherited } = options;
  const rank = ranks.indexOf(wire.rank);
  const alone = { rank, size: ranks.length, name, backend: 'none' as const, within };
  checkTimeout(alone, timeoutSeconds);
  if (rank < 0 || (ranks.length === 1 && wire.backend !== 'fake') || store === null) {
    return new Group({ ...alone, id: null }, 'cpu', null);
  }
  const member: Member = { ...alone, backend: wire.backend };
  const fail = (what: string, text: string) => misuse(member, operation, `${what}: ${plain(text)}`, 'BAD_LAUNCH');
  // Only the members count, so the ranks are part of the name.
  const key = `${place}/${inWorld.join(',')}:${name}`;
  if (!raw('shardloop::store_is_open', store)) {
    throw misuse(wire, operation, 'the group that it came from is destroyed, and with it the store where ranks meet');
  }
  const prefix = `${key}/${next(key)}`;
  return await open(member, { store, owned: false, prefix, device, timeoutSeconds, mayFallBack }, fail);
}

/** The how-many-eth group of a name in a store this is. */
function next(place: string): number {
  const count = (made.get(place) ?? 0) + 1;
  made.set(place, count);
  return count;
}

interface Place {
  readonly store: number;
  /** Whether destroying the group closes the store. */
  readonly owned: boolean;
  readonly prefix: string;
  readonly device: string;
  readonly timeoutSeconds: number;
  readonly mayFallBack: boolean;
}

async function open(
  member: Member,
  place: Place,
  fail: (what: string, text: string) => ShardloopError,
): Promise<Group> {
  const { store, owned, prefix, device, timeoutSeconds, mayFallBack } = place;
  const { backend, rank, size } = member;
  const [id, work] = raw('shardloop::group_open', store, prefix, backend, device, rank, size, timeoutSeconds) as [
    number,
    number,
  ];
  const error = await native().workPromise(work);
  if (/cannot share memory/.test(error)) {
    // Every rank reads the same verdicts, so all of them come here, or none.
    if (mayFallBack) return await open({ ...member, backend: 'gloo' }, { ...place, prefix: `${prefix}/gloo` }, fail);
    throw fail("backend 'shm' is not possible; leave backend out, or name 'gloo'", error);
  }
  if (error !== '') {
    throw fail(
      `the ${size} ranks did not find each other within ${timeoutSeconds} s; did one not start, or die?`,
      error,
    );
  }
  return new Group({ ...member, id }, backend === 'nccl' ? device : 'cpu', {
    ...{ store, owned, place: prefix, device, timeoutSeconds, mayFallBack },
  });
}

function canShareMemory({ store, oneHost }: GroupOptions): boolean {
  const isHere = oneHost === true || (store !== undefined && 'inProcess' in store);
  return isHere && raw('shardloop::backend_available', 'shm') === true;
}

function checkBackend(member: Member): void {
  if (raw('shardloop::backend_available', member.backend)) return;
  if (member.backend === 'nccl')
    throw misuse(member, 'init', `backend 'nccl' is not here: ${cudaProblem()}`, 'NO_CUDA');
  throw misuse(
    member,
    'init',
    `expected backend to be 'gloo', 'shm' (on Linux), 'nccl' or 'fake', received ${describe(member.backend)}`,
  );
}

function storeKey(address: StoreAddress): string {
  return 'inProcess' in address ? address.inProcess : `${address.host}:${address.port}`;
}

function cudaProblem(): string {
  return raw('shardloop::cuda_library_problem') as string;
}

function checkValues(options: GroupOptions): void {
  const { rank, size, timeoutSeconds, name } = options;
  const member = { rank, size, name: name ?? 'world', backend: 'none' as const };
  if (!Number.isInteger(size) || size < 1)
    throw misuse(member, 'init', `expected size to be 1 or more, received ${describe(size)}`);
  if (!Number.isInteger(rank) || rank < 0 || rank >= size) {
    throw misuse(member, 'init', `expected rank to be from 0 to ${size - 1}, received ${describe(rank)}`);
  }
  if (timeoutSeconds !== undefined) checkTimeout(member, timeoutSeconds);
  if (options.backend === 'fake' && !/^(|hang|delay:\d{1,9})$/.test(options.device ?? '')) {
    const received = describe(options.device);
    throw misuse(member, 'init', `backend 'fake' takes the device '', 'delay:MS' or 'hang', received ${received}`);
  }
}

function checkTimeout(member: Member, seconds: unknown): void {
  if (typeof seconds === 'number' && seconds > 0 && seconds < 1e6) return;
  throw misuse(member, 'init', `expected timeoutSeconds to be a positive number, received ${describe(seconds)}`);
}

/**
 * Which network Gloo takes: GLOO_SOCKET_IFNAME as in Python's torch, the loopback on one host, else the one that leads to
 * the store (whoever can reach the store can then reach this rank), else that of the host's name.
 */
async function glooDevice({ store, oneHost }: GroupOptions): Promise<string> {
  const interfaces = process.env.GLOO_SOCKET_IFNAME?.trim();
  if (interfaces) return `interface:${interfaces}`;
  if (oneHost || (store !== undefined && 'inProcess' in store)) return 'host:127.0.0.1';
  const address = store === undefined ? null : await addressTowards(store.host);
  return address === null ? '' : `host:${address}`;
}
