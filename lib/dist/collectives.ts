// The collectives of a group as functions: checked, numbered, counted, launched. Each group's operations are numbered from 1
// and must come in the same order on every rank. Group (group.ts) is the door; objects over the same wire stand in
// objects.ts, what is said about failures in diagnosis.ts.
import { raw } from '../core/binding.js';
import { describe, noGrad, ShardloopError, type Tensor } from '../core/index.js';
import { handleOf } from '../core/tensor-class.js';
import { agree, checksAgreement } from './agreement.js';
import {
  bytesOf,
  checkOne,
  checkRank,
  checkReduceOp,
  checkRows,
  checkShards,
  checkTensors,
  extentOf,
  type Member,
  misuse,
  type ReduceOp,
  shapesOf,
} from './checks.js';
import { collectiveFailure } from './diagnosis.js';
import { noteLaunch } from './timeline.js';
import { type Collective, count, type Traffic } from './traffic.js';
import { Work } from './work.js';

/** A group as the collectives see it: its place in the native table, what it sent, and what has gone wrong with it. */
export interface Wire extends Member {
  /** The native group; null for a group of one. */
  readonly id: number | null;
  readonly traffic: Map<Collective, Traffic>;
  sequence: number;
  destroyed: boolean;
  /** The message of the first failure: after one, the connections of a group are closed. */
  failure: string | null;
}

/** Reduces `tensors` in place over all ranks. */
export function allReduce(wire: Wire, value: Tensor | readonly Tensor[], op: ReduceOp): Work {
  const name = 'all_reduce';
  usable(wire, name);
  const tensors = checkTensors(wire, name, value, 'tensors', true);
  checkReduceOp(wire, name, op, tensors);
  if (wire.id === null) checkMemory(wire, name, tensors, [], false);
  return launch(wire, name, op, tensors, tensors, (id) => raw('shardloop::all_reduce', tensors.map(handleOf), op, id));
}

/** Reduces `tensor` over all ranks into that of `root`; the others keep theirs. */
export function reduce(wire: Wire, tensor: Tensor, root: number, op: ReduceOp): Work {
  const name = 'reduce';
  usable(wire, name);
  checkOne(wire, name, tensor, 'the tensor', true);
  checkReduceOp(wire, name, op, [tensor]);
  checkRank(wire, name, 'root', root);
  const one = [tensor];
  return launch(wire, name, `${op}, root ${root}`, one, one, (id) =>
    raw('shardloop::reduce', handleOf(tensor), root, op, id),
  );
}

/** Overwrites `tensors` with those of `root`. */
export function broadcast(wire: Wire, value: Tensor | readonly Tensor[], root: number): Work {
  const name = 'broadcast';
  usable(wire, name);
  const tensors = checkTensors(wire, name, value);
  checkRank(wire, name, 'root', root);
  if (wire.id === null) checkMemory(wire, name, tensors, [], false);
  return launch(wire, name, `root ${root}`, tensors, tensors, (id) =>
    raw('shardloop::broadcast', tensors.map(handleOf), root, id),
  );
}

/** Fills each output (size * n, ...) with every rank's input (n, ...), in the order of the ranks. */
export function allGather(wire: Wire, output: Tensor | readonly Tensor[], input: Tensor | readonly Tensor[]): Work {
  const name = 'all_gather';
  const { wholes, shards } = pairs(wire, name, output, input, 'the output', 'the input', false);
  if (wire.id === null) copyAll(wire, name, wholes, shards);
  return launch(wire, name, '', shards, wholes, (id) =>
    raw('shardloop::all_gather', wholes.map(handleOf), shards.map(handleOf), id),
  );
}

/** Fills outputs[r] with rank r's input; each has its own shape, and outputs[this rank] that of `input`. */
export function allGatherUneven(wire: Wire, outputs: readonly Tensor[], input: Tensor): Work {
  const name = 'all_gather_uneven';
  usable(wire, name);
  checkTensors(wire, name, outputs, 'the outputs');
  checkOne(wire, name, input, 'the input');
  const own = outputs[wire.rank];
  if (outputs.length !== wire.size || own === undefined) {
    throw misuse(wire, name, `expected ${wire.size} outputs, one for each rank, received ${outputs.length}`);
  }
  const other = outputs.find((t) => t.dtype !== input.dtype || t.device !== input.device);
  if (other !== undefined || own.shape.join() !== input.shape.join()) {
    throw misuse(
      wire,
      name,
      `for the input ${shapesOf([input])} expected the same shape in outputs[${wire.rank}], and its dtype and device in ` +
        `all outputs, received ${shapesOf([other ?? own])}`,
    );
  }
  if (wire.id === null) copyAll(wire, name, [own], [input]);
  return launch(wire, name, '', [], outputs, (id) =>
    raw('shardloop::all_gather_uneven', outputs.map(handleOf), handleOf(input), id),
  );
}

/** Fills each output (n, ...) with this rank's part of the reduction of every rank's input (size * n, ...). */
export function reduceScatter(
  wire: Wire,
  output: Tensor | readonly Tensor[],
  input: Tensor | readonly Tensor[],
  op: ReduceOp,
): Work {
  const name = 'reduce_scatter';
  const { wholes, shards } = pairs(wire, name, input, output, 'the input', 'the output', true);
  checkReduceOp(wire, name, op, wholes);
  if (wire.id === null) copyAll(wire, name, shards, wholes);
  return launch(wire, name, op, wholes, wholes, (id) =>
    raw('shardloop::reduce_scatter', shards.map(handleOf), wholes.map(handleOf), op, id),
  );
}

/** How many rows (along axis 0) come from and go to each rank; both or neither. */
export interface AllToAllRows {
  readonly outputRows: readonly number[];
  readonly inputRows: readonly number[];
}

/** Sends the r-th part of `input` to rank r and puts rank r's part into the r-th part of `output`. */
export function allToAll(wire: Wire, output: Tensor, input: Tensor, rows?: AllToAllRows): Work {
  const name = 'all_to_all';
  usable(wire, name);
  checkOne(wire, name, output, 'the output');
  checkOne(wire, name, input, 'the input');
  checkRows(wire, name, output, input, rows);
  if (wire.id === null) copyAll(wire, name, [output], [input], false);
  const [to, from] = [rows?.outputRows ?? [], rows?.inputRows ?? []];
  return launch(wire, name, '', rows === undefined ? [input] : [], [input], (id) =>
    raw('shardloop::all_to_all', handleOf(output), handleOf(input), to, from, id),
  );
}

/** Fills `output` (size * n, ...) of rank `root` with every rank's `input` (n, ...); null on the other ranks. */
export function gather(wire: Wire, output: Tensor | null, input: Tensor, root: number): Work {
  const name = 'gather';
  usable(wire, name);
  checkOne(wire, name, input, 'the input');
  checkRank(wire, name, 'root', root);
  checkAtRoot(wire, name, 'output', output, input, root);
  if (wire.id === null) copyAll(wire, name, [output!], [input]);
  const one = [input];
  return launch(wire, name, `root ${root}`, one, one, (id) =>
    raw('shardloop::gather', output && handleOf(output), handleOf(input), root, id),
  );
}

/** Fills `output` (n, ...) with this rank's part of the `input` (size * n, ...) of rank `root`; null on the other ranks. */
export function scatter(wire: Wire, output: Tensor, input: Tensor | null, root: number): Work {
  const name = 'scatter';
  usable(wire, name);
  checkOne(wire, name, output, 'the output');
  checkRank(wire, name, 'root', root);
  checkAtRoot(wire, name, 'input', input, output, root);
  if (wire.id === null) copyAll(wire, name, [output], [input!]);
  const one = [output];
  return launch(wire, name, `root ${root}`, one, one, (id) =>
    raw('shardloop::scatter', handleOf(output), input && handleOf(input), root, id),
  );
}

/** Sends `tensor` to rank `to`, which receives it with the same tag. */
export function send(wire: Wire, tensor: Tensor, to: number, tag: number): Work {
  return between(wire, 'send', tensor, to, tag, `to ${to}, tag ${tag}`);
}

/** Overwrites `tensor` with what rank `from` sends with the same tag. */
export function receive(wire: Wire, tensor: Tensor, from: number, tag: number): Work {
  return between(wire, 'receive', tensor, from, tag, `from ${from}, tag ${tag}`);
}

function between(
  wire: Wire,
  name: 'send' | 'receive',
  tensor: Tensor,
  peer: number,
  tag: number,
  detail: string,
): Work {
  usable(wire, name);
  checkOne(wire, name, tensor, 'the tensor');
  checkRank(wire, name, name === 'send' ? 'to' : 'from', peer, true);
  if (!Number.isInteger(tag) || tag < 0 || tag > 2 ** 30) {
    throw misuse(wire, name, `expected tag to be a whole number from 0 to 2^30, received ${describe(tag)}`);
  }
  const one = [tensor];
  return launch(wire, name, detail, one, one, (id) => raw(`shardloop::${name}`, handleOf(tensor), peer, tag, id));
}

/** Completes when every rank has called it. */
export function barrier(wire: Wire): Work {
  usable(wire, 'barrier');
  return launch(wire, 'barrier', '', [], [], (id) => raw('shardloop::barrier', id));
}

/** Refuses operations on a group that is gone, or that this process is no member of. */
export function usable(wire: Wire, operation: string): void {
  if (wire.destroyed) throw misuse(wire, operation, 'the group is destroyed; make a new one');
  if (wire.rank < 0) throw misuse(wire, operation, 'this rank is not a member of the group');
  if (wire.failure !== null) {
    throw misuse(wire, operation, `the group failed earlier: ${wire.failure}`, 'COLLECTIVE_FAILED');
  }
}

/** Checked lists of wholes (size * n, ...) and shards (n, ...), pair by pair. */
function pairs(
  wire: Wire,
  name: Collective,
  whole: Tensor | readonly Tensor[],
  shard: Tensor | readonly Tensor[],
  whatWhole: string,
  whatShard: string,
  reduced: boolean,
): { wholes: Tensor[]; shards: Tensor[] } {
  usable(wire, name);
  const wholes = checkTensors(wire, name, whole, whatWhole, reduced);
  const shards = checkTensors(wire, name, shard, whatShard, reduced);
  if (wholes.length !== shards.length) {
    throw misuse(wire, name, `expected as many inputs as outputs, received ${wholes.length} and ${shards.length}`);
  }
  wholes.forEach((tensor, i) => {
    checkShards(wire, name, tensor, shards[i]!);
  });
  return { wholes, shards };
}

function checkAtRoot(
  wire: Wire,
  name: Collective,
  what: string,
  whole: Tensor | null,
  shard: Tensor,
  root: number,
): void {
  if (root !== wire.rank) {
    if (whole === null) return;
    throw misuse(wire, name, `expected null as the ${what} on a rank that is not root ${root}, received a tensor`);
  }
  checkOne(wire, name, whole, `the ${what} on root ${root}`);
  checkShards(wire, name, whole!, shard);
}

/**
 * Numbers, counts and starts an operation. `shapes` are the tensors that must be alike on all ranks; `sized` those whose
 * bytes are the operation's size, for gathers to and scatters from one rank a part of it.
 */
function launch(
  wire: Wire,
  name: Collective,
  detail: string,
  alike: readonly Tensor[],
  sized: readonly Tensor[],
  start: (id: number) => unknown,
): Work {
  const between = name === 'send' || name === 'receive';
  if (!between) wire.sequence += 1;
  const number = between ? 0 : wire.sequence;
  const parts = name === 'gather' || name === 'scatter' ? wire.size : 1;
  const extents = alike.map(extentOf);
  const bytes = parts * bytesOf(sized === alike ? extents : sized.map(extentOf));
  count(wire.traffic, name, bytes, wire.size);
  const operation = detail === '' ? name : `${name} (${detail})`;
  const shapes = () => (extents.length === 0 ? '' : shapesOf(extents));
  const explain = (text: string) => {
    if (wire.failure !== null) {
      return misuse(wire, operation, `the group failed earlier: ${wire.failure}`, 'COLLECTIVE_FAILED');
    }
    const error = collectiveFailure(wire, wire.id!, { name: operation, number, shapes: shapes() }, text);
    wire.failure = error.message;
    return error;
  };
  if (wire.id === null) return new Work(null, explain);
  if (CHECKING && !between && wire.backend !== 'fake') {
    try {
      const said = shapes();
      agree(wire, wire.id, number, `${operation}${said && ` of ${said}`}`);
    } catch (error) {
      if ((error as ShardloopError).code === 'COLLECTIVE_FAILED') wire.failure = (error as Error).message;
      throw error;
    }
  }
  let id: number;
  try {
    id = start(wire.id) as number;
  } catch (error) {
    if (error instanceof ShardloopError && error.code === 'BAD_ARGUMENT') {
      // Refused before the wire: the group is as it was.
      if (!between) wire.sequence -= 1;
      throw misuse(wire, operation, error.message);
    }
    // Gloo refuses some operations as soon as they are called on closed connections.
    throw explain(error instanceof Error ? error.message : String(error));
  }
  noteLaunch(wire, name, operation, number, bytes);
  return new Work(id, explain, operation);
}

const CHECKING = checksAgreement();

/** What a group of one does. */
function copyAll(
  wire: Wire,
  name: Collective,
  outputs: readonly Tensor[],
  inputs: readonly Tensor[],
  inPlace = true,
): void {
  checkMemory(wire, name, outputs, inputs, inPlace);
  noGrad(() => {
    outputs.forEach((output, i) => {
      const shape = output.shape; // the whole of a scalar has an axis
      using view = inputs[i]!.view(shape);
      raw('aten::copy_', handleOf(output), handleOf(view));
    });
  });
}

/** What native code refuses of memory that is shared, for a group of one; the engines' operations look for themselves. */
function checkMemory(
  wire: Wire,
  name: Collective,
  outputs: readonly Tensor[],
  inputs: readonly Tensor[],
  inPlace: boolean,
): void {
  if (outputs.length + inputs.length < 2) return;
  try {
    raw('shardloop::check_memory', outputs.map(handleOf), inputs.map(handleOf), inPlace);
  } catch (error) {
    throw misuse(wire, name, (error as Error).message);
  }
}
