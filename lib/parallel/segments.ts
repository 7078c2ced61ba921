// The loop over a model's segments: forward in order, backward in reverse, with a strategy called around each in plain
// sight. Data parallelism, sharding, offload and activation checkpointing are what happens at these calls; there are no
// hooks. Not here: the optimizer's step and gradient accumulation, which are train/step.ts.
//
// States of the tensors between segments k and k + 1, while one micro-batch is under way:
//   output   what segment k returned; holds the graph of segment k (none if k is checkpointed)
//   leaf     the same memory cut off from that graph; the input of segment k + 1, whose backward leaves its gradient here
// backward(k) takes the gradients from the leaves, and frees leaf, gradient, output and graph before it goes on to k - 1.
import {
  backward,
  describe,
  getRandomState,
  noGrad,
  ShardloopError,
  scope,
  setRandomState,
  span,
  type Tensor,
} from '../core/index.js';
import { type Carry, cut, type Segment } from '../nn/index.js';
import { alone, type Strategy } from './strategy.js';

/** Which segments forget their activations and run again in the backward: none, all, or every n-th. */
export type Checkpointing = 'none' | 'full' | number;

/** Options of {@link runSegments}. */
export interface SegmentLoopOptions {
  /** How the model is spread over ranks. Default: not at all. */
  strategy?: Strategy;
  /** Activation checkpointing: 'full', or n for every n-th segment. The last segment never needs it. Default 'none'. */
  checkpointing?: Checkpointing;
  /** Whether no further micro-batch comes in this step, so that the strategy combines the gradients. Default true. */
  last?: boolean;
}

/**
 * Runs one micro-batch forward and backward and adds its gradients to the parameters. `lossOf` maps the last segment's
 * output to a scalar; that scalar is returned, detached. Throws BAD_ARGUMENT for options that make no sense.
 */
export function runSegments(
  segments: readonly Segment[],
  input: Carry,
  lossOf: (output: Carry) => Tensor,
  { strategy = alone, checkpointing = 'none', last = true }: SegmentLoopOptions = {},
): Tensor {
  checkCall(input, lossOf, checkpointing, last);
  return scope(() => {
    const head = segments.length - 1;
    const forgets = (k: number): boolean => k < head && isCheckpointed(k, checkpointing);
    const inputs: Carry[] = [];
    const outputs: Carry[] = [];
    const randomStates: Tensor[] = [];

    let carry = input;
    for (const [k, segment] of segments.entries()) {
      strategy.gather(k, 'forward');
      inputs[k] = carry;
      if (forgets(k)) {
        randomStates[k] = getRandomState(deviceOf(carry)); // dropout must draw the same numbers when the segment runs again
        const output = span('compute', 'forward', k, () => noGrad(() => segment.forward(carry)));
        carry = cut(segment, carry, output, { recorded: false });
        for (const t of output) if (!carry.includes(t)) t.dispose(); // the leaf alone holds the memory now
      } else {
        const output = span('compute', 'forward', k, () => segment.forward(carry));
        outputs[k] = output;
        carry = k < head ? cut(segment, carry, output, { recorded: true }) : output;
      }
      strategy.release(k, 'forward');
    }
    const loss = lossOf(carry); // scalar; part of the last segment's graph

    for (let k = head; k >= 0; k--) {
      strategy.gather(k, 'backward');
      if (forgets(k)) {
        outputs[k] = span('compute', 'forward again', k, () => replay(segments[k]!, inputs[k]!, randomStates[k]!));
      }
      span('compute', 'backward', k, () => {
        if (k === head) backward([loss]);
        else backwardFrom(outputs[k]!, inputs[k + 1]!, inputs[k]!);
      });
      delete outputs[k];
      strategy.reduce(k, last);
      strategy.release(k, 'backward');
    }
    return loss.detach();
  });
}

/** What a rank without a micro-batch does, so that the others do not wait for it: the same calls, without computing. */
export function skipSegments(segments: readonly Segment[], strategy: Strategy, last = true): void {
  for (let k = 0; k < segments.length; k++) {
    strategy.gather(k, 'forward');
    strategy.release(k, 'forward');
  }
  for (let k = segments.length - 1; k >= 0; k--) {
    strategy.gather(k, 'backward');
    strategy.reduce(k, last);
    strategy.release(k, 'backward');
  }
}

/** The segments forward alone, without gradients, for evaluation; the last segment's output. */
export function forwardSegments(segments: readonly Segment[], input: Carry, strategy: Strategy = alone): Carry {
  return noGrad(() =>
    scope(() => {
      let carry = input;
      for (const [k, segment] of segments.entries()) {
        strategy.gather(k, 'evaluate');
        const output = segment.forward(carry);
        for (const t of carry) if (!input.includes(t) && !output.includes(t)) t.dispose();
        carry = output;
        strategy.release(k, 'evaluate');
      }
      return carry;
    }),
  );
}

function checkCall(input: unknown, lossOf: unknown, checkpointing: unknown, last: unknown): void {
  const refuse = (key: string, expected: string, value: unknown): never => {
    const received = describe(value);
    throw new ShardloopError('BAD_ARGUMENT', `runSegments: ${key}: expected ${expected}, received ${received}`);
  };
  if (!Array.isArray(input)) refuse('input', 'an array of tensors', input);
  if (typeof lossOf !== 'function') refuse('lossOf', 'a function of the last output', lossOf);
  if (!isCheckpointing(checkpointing)) refuse('checkpointing', CHECKPOINTING, checkpointing);
  if (typeof last !== 'boolean') refuse('last', 'true or false', last);
}

/** What {@link Checkpointing} can be, in words. */
export const CHECKPOINTING = "'none', 'full' or a whole number from 1";

export function isCheckpointing(value: unknown): value is Checkpointing {
  return value === 'none' || value === 'full' || (Number.isSafeInteger(value) && (value as number) > 0);
}

function isCheckpointed(k: number, checkpointing: Checkpointing): boolean {
  if (checkpointing === 'none') return false;
  return checkpointing === 'full' || k % checkpointing === 0;
}

/** Whose random numbers a segment draws: those of where its input lies; a plan on meta tensors draws none. */
function deviceOf(carry: Carry): string {
  const device = carry[0]?.device ?? 'cpu';
  return device === 'meta' ? 'cpu' : device;
}

function replay(segment: Segment, input: Carry, randomState: Tensor): Carry {
  const device = deviceOf(input);
  const now = getRandomState(device);
  setRandomState(randomState, device);
  const output = segment.forward(input);
  setRandomState(now, device);
  randomState.dispose();
  now.dispose();
  return output;
}

/** Backward of one segment: from the gradients that the next one left on the leaves. Frees both sides of the cut. */
function backwardFrom(output: Carry, leaves: Carry, input: Carry): void {
  const roots: Tensor[] = [];
  const gradients: Tensor[] = [];
  const freed: Tensor[] = [];
  for (const [i, leaf] of leaves.entries()) {
    const root = output[i]!;
    if (root === leaf) continue; // rides along, not part of the graph
    const gradient = leaf.grad;
    if (gradient !== null && root.requiresGrad) {
      roots.push(root);
      gradients.push(gradient);
    }
    leaf.grad = null;
    freed.push(leaf);
    if (!input.includes(root)) freed.push(root); // an input that was handed on is a leaf that still waits for its turn
  }
  if (roots.length > 0) backward(roots, gradients);
  for (const t of [...gradients, ...freed]) t.dispose();
}
