// A model as a list of segments, between which a training loop may cut the graph. This file has the type and the cut
// itself; the loop over segments, and the strategies around it, are lib/parallel's.
import { isFloatingDType, noGrad, ops, ShardloopError, scope, Tensor } from '../core/index.js';
import type { Module } from './module.js';

/**
 * What flows from one segment to the next. Activations are floating point and carry gradients; whatever else a later
 * segment needs rides along: token ids, labels, boolean masks. A floating-point tensor that is constant (an additive
 * mask) should enter with the model's input and be handed on as the same object, or be made a boolean mask.
 */
export type Carry = readonly Tensor[];

/** One part of a model: an embedding, a block, a head. */
export interface Segment {
  /** For messages and timelines: 'h.3'. */
  readonly name: string;
  /** The modules whose parameters this segment reads; a tied weight is read by more than one segment. */
  readonly modules: Module[];
  /** Maps the carry of the segment before to the carry of the next. Runs in a scope: only its result escapes. */
  forward(input: Carry): Carry;
}

/** Makes a {@link Segment} whose forward is a scope, as every module's is. */
export function segment(name: string, modules: Module[], forward: (input: Carry) => Carry): Segment {
  return {
    name,
    modules,
    forward(input) {
      const output = scope(() => forward(input));
      if (Array.isArray(output) && output.every((t) => t instanceof Tensor)) return output;
      throw new ShardloopError('BAD_ARGUMENT', `segment "${name}": expected its forward to return an array of tensors`);
    },
  };
}

/**
 * The segments that a model declares, or else the whole model as one: its forward is called with the carry's tensors as
 * arguments and must return a tensor or an array of tensors.
 */
export function segmentsOf(model: Module): Segment[] {
  const declared = model.segments?.();
  if (declared !== undefined && declared.length > 0) return declared;
  const forward = model.forward.bind(model) as unknown as (...input: Tensor[]) => Tensor | Carry;
  return [
    segment(model.constructor.name, [model], (input) => {
      const output = forward(...input);
      return output instanceof Tensor ? [output] : output;
    }),
  ];
}

/** The parameters that a segment reads, with their names inside its modules, each tensor once. */
export function segmentParameters(part: Segment): Tensor[] {
  return [...new Set(part.modules.flatMap((module) => module.parameters()))];
}

/**
 * Cuts the graph behind a segment: every activation of `output` becomes a leaf of its own that shares its memory and
 * requires grad, so that after the backward of the next segment its `.grad` is the gradient of the output. All other
 * items come back as the same objects.
 *
 * `recorded` says whether the segment ran with gradients. If it did, the activations are the items that require grad.
 * If it did not (activation checkpointing: it will run again), they are the floating-point items that are not items of
 * `input` without gradient, provided that something behind them trains: an item of `input` or a parameter of `part`.
 */
export function cut(part: Segment, input: Carry, output: Carry, options: { recorded: boolean }): Carry {
  const trains = (): boolean =>
    input.some((t) => t.requiresGrad) || segmentParameters(part).some((t) => t.requiresGrad);
  const behind = options.recorded || trains();
  const isActivation = (t: Tensor): boolean =>
    options.recorded
      ? t.requiresGrad
      : behind && isFloatingDType(t.dtype) && !input.some((i) => i === t && !i.requiresGrad);
  return noGrad(() =>
    output.map((t) => {
      if (!isActivation(t)) return t;
      const leaf = ops.detach(t);
      leaf.requiresGrad = true;
      return leaf;
    }),
  );
}
