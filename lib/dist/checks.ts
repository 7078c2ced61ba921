// What is refused before it reaches the wire, and how collective errors are worded: every message begins `[rank r/n]`
// and names the operation, the group and the shapes. Not here: what goes wrong on the wire itself (native text).
import type { DType, Tensor } from '../core/index.js';
import { describe, type ErrorCode, isTensor, ShardloopError } from '../core/index.js';

/** How values of several ranks become one. */
export type ReduceOp = 'sum' | 'avg' | 'min' | 'max' | 'product';

/** The engines of libtorch's c10d that can carry a group; 'none' is a group of one, which needs no engine. */
export type Backend = 'gloo' | 'nccl' | 'none';

/** What a message says about the group. */
export interface Member {
  readonly rank: number;
  readonly size: number;
  readonly name: string;
  readonly backend: Backend;
}

/** The dtypes that each backend carries. */
const CARRIED: Record<Exclude<Backend, 'none'>, ReadonlySet<DType>> = {
  gloo: new Set(['float32', 'float64', 'float16', 'bfloat16', 'int8', 'uint8', 'int32', 'int64', 'bool']),
  nccl: new Set(['float32', 'float64', 'float16', 'bfloat16', 'int8', 'uint8', 'int32', 'int64', 'bool']),
};

const REDUCE_OPS: readonly string[] = ['sum', 'avg', 'min', 'max', 'product'];

/** `[rank 0/2] all_reduce on group 'world'`: how every message begins. */
export function opening(member: Member, operation: string): string {
  return `[rank ${member.rank}/${member.size}] ${operation} on group '${member.name}'`;
}

/** An error about a call that never reached the wire. */
export function misuse(
  member: Member,
  operation: string,
  text: string,
  code: ErrorCode = 'BAD_ARGUMENT',
): ShardloopError {
  return new ShardloopError(code, `${opening(member, operation)}: ${text}`);
}

/** `float32 (3, 4)`; of several tensors the first, the count and the elements. */
export function shapesOf(tensors: readonly Tensor[]): string {
  const first = tensors[0];
  if (first === undefined) return 'no tensors';
  const one = `${first.dtype} (${first.shape.join(', ')})`;
  if (tensors.length === 1) return one;
  const elements = tensors.reduce((sum, t) => sum + t.numel, 0);
  return `${one} and ${tensors.length - 1} more, ${elements} elements`;
}

/** Tensors that the backend can send as they are: dense, contiguous, of a dtype and on a device that it carries. */
export function checkTensors(member: Member, operation: string, value: unknown, what = 'tensors'): Tensor[] {
  const tensors: unknown[] = Array.isArray(value) ? value : [value];
  if (tensors.length === 0) throw misuse(member, operation, `expected at least one tensor as ${what}, received none`);
  for (const tensor of tensors) {
    if (!isTensor(tensor)) throw misuse(member, operation, `expected Tensors as ${what}, received ${describe(tensor)}`);
    checkTensor(member, operation, tensor);
  }
  return tensors as Tensor[];
}

function checkTensor(member: Member, operation: string, tensor: Tensor): void {
  const received = shapesOf([tensor]);
  if (!tensor.isContiguous) {
    throw misuse(
      member,
      operation,
      `expected a contiguous tensor, received a strided view, ${received}; pass t.contiguous()`,
    );
  }
  if (tensor.requiresGrad && !tensor.isLeaf) {
    throw misuse(
      member,
      operation,
      `expected a tensor outside the graph, received ${received} with a grad_fn; pass t.detach()`,
    );
  }
  if (member.backend === 'none') return;
  if (!CARRIED[member.backend].has(tensor.dtype)) {
    const carried = [...CARRIED[member.backend]].join(', ');
    throw misuse(
      member,
      operation,
      `backend '${member.backend}' carries ${carried}; received ${received}; convert it first`,
    );
  }
  const onCuda = tensor.device.startsWith('cuda');
  if (member.backend === 'nccl' && !onCuda) {
    throw misuse(member, operation, `backend 'nccl' carries CUDA tensors, received ${received} on ${tensor.device}`);
  }
  if (!onCuda && tensor.device !== 'cpu') {
    throw misuse(member, operation, `expected a tensor on cpu or cuda, received ${received} on ${tensor.device}`);
  }
}

/** One of the reduce operations; 'avg' only where a mean exists. */
export function checkReduceOp(member: Member, operation: string, op: unknown, tensors: readonly Tensor[]): ReduceOp {
  if (typeof op !== 'string' || !REDUCE_OPS.includes(op)) {
    throw misuse(member, operation, `expected op to be one of ${REDUCE_OPS.join(', ')}, received ${describe(op)}`);
  }
  const whole = tensors.find((t) => !/float|complex/.test(t.dtype));
  if (op === 'avg' && whole !== undefined) {
    throw misuse(member, operation, `op 'avg' needs floating-point tensors, received ${shapesOf([whole])}; use 'sum'`);
  }
  if (['sum', 'avg', 'product'].includes(op) && tensors.some((t) => t.dtype === 'bool')) {
    throw misuse(member, operation, `op '${op}' has no meaning for bool tensors; use 'max' (or) or 'min' (and)`);
  }
  return op as ReduceOp;
}

/** A rank of the group. */
export function checkRoot(member: Member, operation: string, root: unknown): number {
  if (typeof root !== 'number' || !Number.isInteger(root) || root < 0 || root >= member.size) {
    throw misuse(
      member,
      operation,
      `expected root to be a rank from 0 to ${member.size - 1}, received ${describe(root)}`,
    );
  }
  return root;
}

/** A whole that is exactly `size` shards of the same dtype and device, laid one after the other along axis 0. */
export function checkShards(member: Member, operation: string, whole: Tensor, shard: Tensor): void {
  const [rows, ...rest] = shard.shape;
  const expected = rows === undefined ? [member.size] : [rows * member.size, ...rest];
  const matches = whole.shape.length === expected.length && whole.shape.every((n, axis) => n === expected[axis]);
  if (matches && whole.dtype === shard.dtype && whole.device === shard.device) return;
  throw misuse(
    member,
    operation,
    `for a shard of ${shapesOf([shard])} on ${shard.device} expected a whole of shape (${expected.join(', ')}), the same ` +
      `dtype and device, received ${shapesOf([whole])} on ${whole.device}`,
  );
}

/** The error for a failure on the wire, with what to look for. */
export function collectiveFailure(member: Member, operation: string, shapes: string, text: string): ShardloopError {
  const detail = plain(text);
  return new ShardloopError(
    'COLLECTIVE_FAILED',
    `${opening(member, operation)}${shapes && ` of ${shapes}`} failed: ${detail}; ${advice(text)}`,
  );
}

/** The first sentence of libtorch's or Gloo's text, without its source line. */
export function plain(text: string): string {
  const line = text.split('\n', 1)[0]!.replace(/^\[[^\]]*:\d+\]\s*/, '');
  return line.replace(/\. This is typically caused by.*$/, '').trim();
}

function advice(text: string): string {
  if (/timed? ?out/i.test(text)) {
    return (
      'some rank did not arrive: it died, is stuck, or called other collectives. Every rank must call the same ' +
      'operations in the same order'
    );
  }
  if (/connection (closed|reset|refused)|broken pipe|closed by peer|ECONN/i.test(text)) {
    return 'a peer died or left the group: look for the first rank that failed';
  }
  return 'make a new group before communicating again';
}
