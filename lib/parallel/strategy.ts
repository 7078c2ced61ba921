// What a way of spreading a model does around each segment. Replication, sharding and offload are implementations; the
// loop that calls them in plain sight is segments.ts.
import { describe, ShardloopError, type Tensor } from '../core/index.js';
import { type Segment, segmentParameters } from '../nn/index.js';

/** Why a segment runs: in a step forward or backward, or forward alone ('evaluate'). */
export type Pass = 'forward' | 'backward' | 'evaluate';

/** What a rank updates of one parameter. */
export interface Part {
  /** The parameter itself, or a view (n) of this rank's shard with n >= 0 elements. Its `grad` is set by finish(). */
  readonly tensor: Tensor;
  /** Its elements are those from `start` on of the parameter in row-major order. */
  readonly start: number;
}

/** Called by the segment loop, mostly with the index of a segment, on every rank in the same order. */
export interface Strategy {
  /** Whether this rank's parts belong in a checkpoint: of ranks that hold the same ones, the first. */
  readonly writesParts: boolean;
  /**
   * A step begins: no parameter of `segments`, which are the model's, has a gradient. Of a step that failed before its finish(), what is on its way
   * is waited for, and its sums are dropped. Where its collectives had begun the ranks meet here, and each rejects with
   * COLLECTIVE_FAILED unless all of them failed behind the same one. A loop that never repeats a step may leave it out.
   */
  begin(segments: readonly Segment[]): Promise<void>;
  /** Segment k is about to run: make its parameters whole. May start to fetch a neighbour's too. */
  gather(k: number, pass: Pass): void;
  /** Segment k has run: what gather(k) fetched may go. */
  release(k: number, pass: Pass): void;
  /**
   * Segment k's backward of this micro-batch has run. `last`: no further micro-batch comes in this step, so its
   * gradients start to be combined with those of the other ranks, if that has not begun before.
   */
  reduce(k: number, last: boolean): void;
  /** Waits for all that reduce() began; then the gradient of every part is that of the global batch. */
  finish(): Promise<void>;
  /** What this rank updates of a parameter. */
  part(parameter: Tensor): Part;
  /**
   * Makes whole what each rank holds a part of: `values[i]` has the shape of the part of `parameters[i]`, and `use` is called
   * with the whole, in the parameter's shape, where this rank's part is not empty. It is gone when `use` returns. Collective.
   */
  assemble(
    parameters: readonly Tensor[],
    values: readonly Tensor[],
    use: (index: number, whole: Tensor, start: number) => void,
  ): void;
  /** The sum of a number over the ranks that hold the other parts of the same parameters; alone, the number itself. */
  sumOverParts(value: number): Promise<number>;
  /** The parts have new values: whole parameters are out of date. */
  updated(): void;
  /** Runs `fn` while every parameter, or at least each of `parameters`, is whole. Collective. */
  whole<T>(fn: () => T | Promise<T>, parameters?: Iterable<Tensor>): Promise<T>;
  /** Frees what the strategy holds; every call but this one is refused afterwards. A model whose parameters it shards is of no use then. */
  dispose(): void;
}

/** What to do where a step may be repeated: gradients of the one that failed are there, on their way, or in sums. */
export const REPEAT = 'await begin(segments) where a step begins, which drops what is left of one that failed';

/** The strategy of a single rank: all parameters are always here, and every gradient is already global. */
export const alone: Strategy = {
  writesParts: true,
  async begin(segments) {
    dropGradients(segments);
  },
  gather() {},
  release() {},
  reduce() {},
  async finish() {},
  part: (parameter) => ({ tensor: parameter, start: 0 }),
  assemble(_, values, use) {
    for (const [i, value] of values.entries()) use(i, value, 0);
  },
  sumOverParts: async (value) => value,
  updated() {},
  whole: async (fn) => fn(),
  dispose() {},
};

/** No parameter has a gradient any more. Throws BAD_ARGUMENT for what are no segments. */
export function dropGradients(segments: readonly Segment[]): void {
  if (!Array.isArray(segments) || segments.length === 0 || !segments.every((one) => Array.isArray(one?.modules))) {
    const expected = 'expected the segments of the model, as nn.segmentsOf(model) gives them';
    throw new ShardloopError('BAD_ARGUMENT', `begin: ${expected}, received ${describe(segments)}`);
  }
  for (const segment of segments) for (const parameter of segmentParameters(segment)) parameter.grad = null;
}

/** The parts of named parameters under the same names, as optimizers take them. */
export function partsOf<Name>(strategy: Strategy, named: Iterable<readonly [Name, Tensor]>): [Name, Tensor][] {
  return [...named].map(([name, parameter]) => [name, strategy.part(parameter).tensor]);
}
