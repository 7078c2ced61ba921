// The operations that are measured: for each the tensors of a rank, out of place and in place, one call, and what must
// come out. Not here: timing (measure.ts), the values (values.ts).
import { type DType, dtypeBytes, empty, type Tensor } from '../core/index.js';
import type { Collective, Group, ReduceOp } from '../dist/index.js';
import { type Expected, fill, from, moved, type Part, reduced, reducible } from './values.js';

/** One operation with its tensors, ready to be called again and again. */
export interface Case {
  /** One operation, waited for. */
  run(): void;
  /** Puts the inputs back to what {@link expected} is the result of. */
  refill(): void;
  /** What came out on this rank, and what must have; null where a rank gets nothing. */
  readonly result: { readonly tensor: Tensor; readonly expected: Expected } | null;
}

/** What a case is made for. */
export interface CaseOptions {
  readonly group: Group;
  readonly device: string;
  readonly dtype: DType;
  /** Elements of one part: of the whole tensor where an operation has no parts. */
  readonly count: number;
  readonly op: ReduceOp;
  readonly root: number;
  readonly inPlace: boolean;
}

/** An operation as the sweep sees it. */
export interface Operation {
  /** Whose bus factor counts; sendrecv moves every byte once. */
  readonly traffic: Collective;
  readonly reduces: boolean;
  readonly rooted: boolean;
  /** Whether the size is that of all ranks' parts together. */
  readonly parts: boolean;
  readonly hasInPlace: boolean;
  make(options: CaseOptions): Case;
}

const flat = (o: CaseOptions, elements: number): Tensor => empty([elements], { dtype: o.dtype, device: o.device });
const one = (pattern: Part['pattern'], count: number): Part[] => [{ pattern, count }];
/** The parts of all ranks' data, end to end. */
const everyRank = (o: CaseOptions): Part[] =>
  Array.from({ length: o.group.size }, (_, rank) => ({ pattern: moved(rank), count: o.count }));
const slot = (whole: Tensor, o: CaseOptions): Tensor => whole.narrow(0, o.group.rank * o.count, o.count);
const divisor = (o: CaseOptions): number => (o.op === 'avg' ? o.group.size : 1);

/**
 * Operations that the Group only has in place. Out of place they run on a second tensor, which the input is copied into
 * before the timer starts: what is timed is the same operation.
 */
function onOneTensor(
  o: CaseOptions,
  pattern: Part['pattern'],
  expected: Expected | null,
  call: (tensor: Tensor) => void,
): Case {
  const input = flat(o, o.count);
  const target = o.inPlace ? input : flat(o, o.count);
  return {
    run: () => call(target),
    refill: () => {
      fill(input, one(pattern, o.count));
      if (target !== input) target.copy_(input);
    },
    result: expected === null ? null : { tensor: target, expected },
  };
}

/** Every operation by nccl-tests' name. */
export const OPERATIONS = {
  all_reduce: {
    ...{ traffic: 'all_reduce', reduces: true, rooted: false, parts: false, hasInPlace: true },
    make: (o) =>
      onOneTensor(
        o,
        reducible(o.op, o.group.rank, o.group.size),
        { parts: one(reduced(o.op, o.group.size), o.count), divisor: divisor(o) },
        (tensor) => o.group.allReduce(tensor, o.op).wait(),
      ),
  },
  all_gather: {
    ...{ traffic: 'all_gather', reduces: false, rooted: false, parts: true, hasInPlace: true },
    make: (o) => {
      const output = flat(o, o.count * o.group.size);
      const input = o.inPlace ? slot(output, o) : flat(o, o.count);
      return {
        run: () => o.group.allGather(output, input).wait(),
        refill: () => {
          output.zero_();
          fill(input, one(moved(o.group.rank), o.count));
        },
        result: { tensor: output, expected: { parts: everyRank(o) } },
      };
    },
  },
  reduce_scatter: {
    ...{ traffic: 'reduce_scatter', reduces: true, rooted: false, parts: true, hasInPlace: true },
    make: (o) => {
      const { rank, size } = o.group;
      const input = flat(o, o.count * size);
      const output = o.inPlace ? slot(input, o) : flat(o, o.count);
      const mine = from(reduced(o.op, size), rank * o.count);
      return {
        run: () => o.group.reduceScatter(output, input, o.op).wait(),
        refill: () => {
          output.zero_(); // what an earlier call left must not pass for a result
          fill(input, one(reducible(o.op, rank, size), o.count * size));
        },
        result: { tensor: output, expected: { parts: one(mine, o.count), divisor: divisor(o) } },
      };
    },
  },
  broadcast: {
    ...{ traffic: 'broadcast', reduces: false, rooted: true, parts: false, hasInPlace: true },
    make: (o) =>
      onOneTensor(o, moved(o.group.rank), { parts: one(moved(o.root), o.count) }, (tensor) =>
        o.group.broadcast(tensor, o.root).wait(),
      ),
  },
  reduce: {
    ...{ traffic: 'reduce', reduces: true, rooted: true, parts: false, hasInPlace: true },
    make: (o) => {
      const { rank, size } = o.group;
      const expected = { parts: one(reduced(o.op, size), o.count), divisor: divisor(o) };
      return onOneTensor(o, reducible(o.op, rank, size), rank === o.root ? expected : null, (tensor) =>
        o.group.reduce(tensor, o.root, o.op).wait(),
      );
    },
  },
  alltoall: {
    ...{ traffic: 'all_to_all', reduces: false, rooted: false, parts: true, hasInPlace: false },
    make: (o) => {
      const { rank, size } = o.group;
      const output = flat(o, o.count * size);
      const input = flat(o, o.count * size);
      const expected = Array.from({ length: size }, (_, sender) => ({
        pattern: from(moved(sender), rank * o.count),
        count: o.count,
      }));
      return {
        run: () => o.group.allToAll(output, input).wait(),
        refill: () => {
          output.zero_();
          fill(input, one(moved(rank), o.count * size));
        },
        result: { tensor: output, expected: { parts: expected } },
      };
    },
  },
  sendrecv: {
    ...{ traffic: 'send', reduces: false, rooted: false, parts: false, hasInPlace: false },
    make: (o) => {
      const { rank, size } = o.group;
      const output = flat(o, o.count);
      const input = flat(o, o.count);
      const [next, previous] = [(rank + 1) % size, (rank + size - 1) % size];
      return {
        run: () => {
          const sent = o.group.send(input, next);
          o.group.receive(output, previous).wait();
          sent.wait();
        },
        refill: () => {
          output.zero_();
          fill(input, one(moved(rank), o.count));
        },
        result: { tensor: output, expected: { parts: one(moved(previous), o.count) } },
      };
    },
  },
  gather: {
    ...{ traffic: 'gather', reduces: false, rooted: true, parts: true, hasInPlace: true },
    make: (o) => {
      const { rank, size } = o.group;
      const output = rank === o.root ? flat(o, o.count * size) : null;
      const input = o.inPlace && output !== null ? slot(output, o) : flat(o, o.count);
      return {
        run: () => o.group.gather(output, input, o.root).wait(),
        refill: () => {
          output?.zero_();
          fill(input, one(moved(rank), o.count));
        },
        result: output && { tensor: output, expected: { parts: everyRank(o) } },
      };
    },
  },
  scatter: {
    ...{ traffic: 'scatter', reduces: false, rooted: true, parts: true, hasInPlace: true },
    make: (o) => {
      const { rank, size } = o.group;
      const input = rank === o.root ? flat(o, o.count * size) : null;
      const output = o.inPlace && input !== null ? slot(input, o) : flat(o, o.count);
      return {
        run: () => o.group.scatter(output, input, o.root).wait(),
        refill: () => {
          output.zero_();
          if (input !== null) fill(input, one(moved(o.root), o.count * size));
        },
        result: { tensor: output, expected: { parts: one(from(moved(o.root), rank * o.count), o.count) } },
      };
    },
  },
} as const satisfies Record<string, Operation>;

/** The name of an operation that can be measured. */
export type OperationName = keyof typeof OPERATIONS;

/** Elements of one part for a size in bytes, at least one, and the size that this makes. */
export function elementsFor(operation: Operation, bytes: number, dtype: DType, ranks: number) {
  const parts = operation.parts ? ranks : 1;
  const count = Math.max(1, Math.floor(bytes / dtypeBytes(dtype) / parts));
  return { count, size: count * parts * dtypeBytes(dtype) };
}
