// The collectives of a group as functions: checked, numbered, launched. Each group's operations are numbered from 1 and
// must come in the same order on every rank. Group (group.ts) is the door; objects over the same wire stand in objects.ts.
import { raw } from '../core/binding.js';
import { call, noGrad, type Tensor } from '../core/index.js';
import {
  checkReduceOp,
  checkRoot,
  checkShards,
  checkTensors,
  collectiveFailure,
  type Member,
  misuse,
  type ReduceOp,
  shapesOf,
} from './checks.js';
import { Work } from './work.js';

/** A group as the collectives see it: its place in the native table, and what has gone wrong with it. */
export interface Wire extends Member {
  /** The native group; null for a group of one. */
  readonly id: number | null;
  sequence: number;
  destroyed: boolean;
  /** The message of the first failure: after one, the connections of a group are closed. */
  failure: string | null;
}

/** Reduces `tensors` in place over all ranks. */
export function allReduce(wire: Wire, value: Tensor | readonly Tensor[], op: ReduceOp): Work {
  const name = 'all_reduce';
  usable(wire, name);
  const tensors = checkTensors(wire, name, value);
  checkReduceOp(wire, name, op, tensors);
  return launch(wire, `${name} (${op})`, tensors, (id) => call('shardloop::all_reduce', tensors, op, id));
}

/** Overwrites `tensors` with those of `root`. */
export function broadcast(wire: Wire, value: Tensor | readonly Tensor[], root: number): Work {
  const name = 'broadcast';
  usable(wire, name);
  const tensors = checkTensors(wire, name, value);
  checkRoot(wire, name, root);
  return launch(wire, `${name} (root ${root})`, tensors, (id) => call('shardloop::broadcast', tensors, root, id));
}

/** Fills `output` (size * n, ...) with every rank's `input` (n, ...), in the order of the ranks. */
export function allGather(wire: Wire, output: Tensor, input: Tensor): Work {
  const name = 'all_gather';
  usable(wire, name);
  checkTensors(wire, name, output, 'the output');
  checkTensors(wire, name, input, 'the input');
  checkShards(wire, name, output, input);
  if (wire.id === null) copy(output, input);
  return launch(wire, name, [input], (id) => call('shardloop::all_gather', output, input, id));
}

/** Fills `output` (n, ...) with this rank's part of the reduction of every rank's `input` (size * n, ...). */
export function reduceScatter(wire: Wire, output: Tensor, input: Tensor, op: ReduceOp): Work {
  const name = 'reduce_scatter';
  usable(wire, name);
  checkTensors(wire, name, output, 'the output');
  checkTensors(wire, name, input, 'the input');
  checkReduceOp(wire, name, op, [input]);
  checkShards(wire, name, input, output);
  if (wire.id === null) copy(output, input);
  return launch(wire, `${name} (${op})`, [input], (id) => call('shardloop::reduce_scatter', output, input, op, id));
}

/** Completes when every rank has called it. */
export function barrier(wire: Wire): Work {
  usable(wire, 'barrier');
  return launch(wire, 'barrier', [], (id) => raw('shardloop::barrier', id));
}

/** Refuses operations on a group that is gone. */
export function usable(wire: Wire, operation: string): void {
  if (wire.destroyed) throw misuse(wire, operation, 'the group is destroyed; make a new one');
  if (wire.failure !== null) {
    throw misuse(wire, operation, `the group failed earlier: ${wire.failure}`, 'COLLECTIVE_FAILED');
  }
}

function launch(wire: Wire, operation: string, tensors: readonly Tensor[], start: (id: number) => unknown): Work {
  wire.sequence += 1;
  const numbered = `${operation} #${wire.sequence}`;
  // Read now: the tensors may be disposed by the time something fails.
  const shapes = wire.id === null || tensors.length === 0 ? '' : shapesOf(tensors);
  const explain = (text: string) => {
    const error = collectiveFailure(wire, numbered, shapes, text);
    wire.failure ??= error.message;
    return error;
  };
  if (wire.id === null) return new Work(null, explain);
  let id: number;
  try {
    id = start(wire.id) as number;
  } catch (error) {
    // Gloo refuses some operations as soon as they are called on closed connections.
    throw explain(error instanceof Error ? error.message : String(error));
  }
  return new Work(id, explain);
}

function copy(output: Tensor, input: Tensor): void {
  noGrad(() => call('aten::copy_', output, input));
}
