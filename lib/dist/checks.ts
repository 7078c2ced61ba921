// What is refused before it reaches the wire, and how collective errors are worded: every message begins `[rank r/n]`
// and names the operation, the group and the shapes. Not here: what goes wrong on the wire itself (native text).
import { FACTS, native } from '../core/binding.js';
import { dtypeOfFacts } from '../core/dtype.js';
import type { DType, Tensor } from '../core/index.js';
import { describe, dtypeBytes, type ErrorCode, isTensor, ShardloopError } from '../core/index.js';
import { handleOf } from '../core/tensor-class.js';

/** How values of several ranks become one. */
export type ReduceOp = 'sum' | 'avg' | 'min' | 'max' | 'product';

/**
 * What carries a group: libtorch's c10d over Gloo or NCCL; 'shm', shared memory between CPU ranks of one host; 'fake', in which the other ranks do not exist; 'none', a group
 * of one, which needs no engine.
 */
export type Backend = 'gloo' | 'shm' | 'nccl' | 'fake' | 'none';

/** What a message says about the group. */
export interface Member {
  /** -1 in a process that is not a member. */
  readonly rank: number;
  readonly size: number;
  readonly name: string;
  readonly backend: Backend;
  /** Of a group within another: this process in the world, and the members' ranks there. */
  readonly within?: { readonly rank: number; readonly size: number; readonly ranks: readonly number[] };
}

/** The dtypes that Gloo and NCCL can reduce; what only moves data goes as bytes. */
const REDUCED: ReadonlySet<DType> = new Set([
  'float32',
  'float64',
  'float16',
  'bfloat16',
  'int8',
  'uint8',
  'int32',
  'int64',
  'bool',
]);

const REDUCE_OPS: readonly string[] = ['sum', 'avg', 'min', 'max', 'product'];

/** `[rank 0/2] all_reduce on group 'world'`: how every message begins. The rank is that in the world. */
export function opening(member: Member, operation: string): string {
  const { within } = member;
  const group = within === undefined ? `'${member.name}'` : `'${member.name}' of ranks ${within.ranks.join(', ')}`;
  return `[rank ${within?.rank ?? member.rank}/${within?.size ?? member.size}] ${operation} on group ${group}`;
}

/** A rank of the group as the world numbers it. */
export function inWorld(member: Member, rank: number): number {
  return member.within?.ranks[rank] ?? rank;
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

/** What a tensor was when it was launched: it may be disposed by the time something is said about it. */
export interface Extent {
  readonly dtype: DType;
  readonly shape: readonly number[];
}

export function extentOf(tensor: Tensor): Extent {
  return { dtype: dtypeOfFacts(native().facts(handleOf(tensor))) ?? tensor.dtype, shape: tensor.shape };
}

export function bytesOf(extents: readonly Extent[]): number {
  return extents.reduce((sum, extent) => sum + elementsOf(extent) * dtypeBytes(extent.dtype), 0);
}

const elementsOf = ({ shape }: Extent): number => shape.reduce((product, n) => product * n, 1);

/** `float32 (3, 4)`; of several tensors the first, the count and the elements. */
export function shapesOf(tensors: readonly (Tensor | Extent)[]): string {
  const first = tensors[0];
  if (first === undefined) return 'no tensors';
  const one = `${first.dtype} (${first.shape.join(', ')})`;
  if (tensors.length === 1) return one;
  const elements = tensors.reduce((sum, t) => sum + elementsOf(t), 0);
  return `${one} and ${tensors.length - 1} more, ${elements} elements`;
}

/**
 * Tensors that the backend can send as they are: dense, contiguous, on a device that it carries, and where they are
 * `reduced` of a dtype that it can add up.
 */
export function checkTensors(
  member: Member,
  operation: string,
  value: unknown,
  what = 'tensors',
  reduced = false,
): Tensor[] {
  const tensors: unknown[] = Array.isArray(value) ? value : [value];
  if (tensors.length === 0) throw misuse(member, operation, `expected at least one tensor as ${what}, received none`);
  for (const tensor of tensors) {
    if (!isTensor(tensor)) throw misuse(member, operation, `expected Tensors as ${what}, received ${describe(tensor)}`);
    checkTensor(member, operation, tensor, reduced);
  }
  return tensors as Tensor[];
}

/** The same for the one tensor of an operation that takes no lists. */
export function checkOne(member: Member, operation: string, value: unknown, what: string, reduced = false): Tensor {
  if (!isTensor(value)) {
    throw misuse(member, operation, `expected a Tensor as ${what}, received ${describe(value)}`);
  }
  checkTensor(member, operation, value, reduced);
  return value;
}

const SENDABLE = FACTS.isStrided | FACTS.isContiguous;

/** One question to native code where all is well; what is wrong is looked at again. */
function checkTensor(member: Member, operation: string, tensor: Tensor, reduced: boolean): void {
  const facts = native().facts(handleOf(tensor));
  const attached = (facts & FACTS.requiresGrad) !== 0 && (facts & FACTS.isLeaf) === 0;
  const plain = (facts & SENDABLE) === SENDABLE && (facts & (FACTS.isConj | FACTS.isNeg)) === 0 && !attached;
  if (!plain) throw misuse(member, operation, unsendable(tensor, facts));
  const { backend } = member;
  if (backend === 'none') return;
  const dtype = dtypeOfFacts(facts);
  if (reduced && (dtype === undefined || !REDUCED.has(dtype))) {
    const known = [...REDUCED].join(', ');
    const hint = tensor.dtype.startsWith('complex')
      ? 'for a sum or a mean pass ops.view_as_real(t)'
      : 'convert it first';
    throw misuse(member, operation, `backend '${backend}' reduces ${known}; received ${shapesOf([tensor])}; ${hint}`);
  }
  if (backend === 'fake') return;
  const where = () => `received ${shapesOf([tensor])} on ${tensor.device}`;
  if (backend === 'nccl' && (facts & FACTS.isCuda) === 0) {
    throw misuse(member, operation, `backend 'nccl' carries CUDA tensors, ${where()}`);
  }
  if ((facts & (FACTS.isCuda | FACTS.isCpu)) === 0) {
    throw misuse(member, operation, `expected a tensor on cpu or cuda, ${where()}`);
  }
}

function unsendable(tensor: Tensor, facts: number): string {
  const received = shapesOf([tensor]);
  if ((facts & FACTS.isStrided) === 0) return `expected a dense tensor, received ${received}, ${tensor.layout}`;
  if ((facts & FACTS.isContiguous) === 0) {
    return `expected a contiguous tensor, received a strided view, ${received}; pass t.contiguous()`;
  }
  if ((facts & FACTS.isConj) !== 0) {
    return `expected memory as it is, received a lazily conjugated view, ${received}; pass ops.resolve_conj(t)`;
  }
  if ((facts & FACTS.isNeg) !== 0) {
    return `expected memory as it is, received a lazily negated view, ${received}; pass ops.resolve_neg(t)`;
  }
  return `expected a tensor outside the graph, received ${received} with a grad_fn; pass t.detach()`;
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

/** A rank of the group; with `other`, not this one. */
export function checkRank(member: Member, operation: string, what: string, rank: unknown, other = false): number {
  const isRank = typeof rank === 'number' && Number.isInteger(rank) && rank >= 0 && rank < member.size;
  if (isRank && !(other && rank === member.rank)) return rank;
  const expected = other
    ? `another rank than ${member.rank} from 0 to ${member.size - 1}`
    : `a rank from 0 to ${member.size - 1}`;
  throw misuse(member, operation, `expected ${what} to be ${expected}, received ${describe(rank)}`);
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

/** The first sentence of libtorch's or Gloo's text, without its source line. */
export function plain(text: string): string {
  const line = text.split('\n', 1)[0]!.replace(/^\[[^\]]*:\d+\]\s*/, '');
  return line.replace(/\. This is typically caused by.*$/, '').trim();
}

/** The parts of an all-to-all: equal ones, or rows for each rank that add up to the tensors. */
export function checkRows(
  member: Member,
  operation: string,
  output: Tensor,
  input: Tensor,
  rows: { readonly outputRows: readonly number[]; readonly inputRows: readonly number[] } | undefined,
): void {
  const fail = (text: string) => misuse(member, operation, text);
  if (output.dtype !== input.dtype || output.device !== input.device) {
    throw fail(
      `expected output and input of one dtype and device, received ${shapesOf([output])} on ${output.device} and ` +
        `${shapesOf([input])} on ${input.device}`,
    );
  }
  if (input.ndim === 0 || output.ndim === 0 || input.shape.slice(1).join() !== output.shape.slice(1).join()) {
    throw fail(
      `expected tensors with rows along axis 0 and alike behind it, received ${shapesOf([output])} and ${shapesOf([input])}`,
    );
  }
  for (const [what, tensor, counts] of [
    ['outputRows', output, rows?.outputRows],
    ['inputRows', input, rows?.inputRows],
  ] as const) {
    if (rows === undefined) {
      if (tensor.shape[0]! % member.size !== 0 || tensor.shape[0] !== input.shape[0]) {
        throw fail(
          `without rows expected output and input of the same rows, divisible by ${member.size}, received ` +
            `${shapesOf([output])} and ${shapesOf([input])}; give { outputRows, inputRows }`,
        );
      }
      continue;
    }
    const isList = Array.isArray(counts) && counts.every((n) => Number.isInteger(n) && n >= 0);
    const total = isList ? (counts as number[]).reduce((sum, n) => sum + n, 0) : Number.NaN;
    if (!isList || counts!.length !== member.size || total !== tensor.shape[0]) {
      throw fail(
        `expected ${what} to be ${member.size} whole numbers that add up to ${tensor.shape[0]}, received ` +
          `${isList ? `[${counts!.join(', ')}]` : describe(counts)}`,
      );
    }
  }
}
