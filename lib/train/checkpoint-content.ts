// What a rank writes into a checkpoint, and what it takes out of one, when it holds parts of the parameters: the
// elements that its strategy gives it, of the parameters and of every optimizer state that has one element for each of
// theirs. Other states (rows and columns of a factored moment) are whole. Not here: when, and the folder (checkpoints.ts).
import { noGrad, ops, ShardloopError, scope, type Tensor } from '../core/index.js';
import type { Checkpoint, PartGroups, TensorPart } from '../io/index.js';
import type { Optimizer, OptimizerState } from '../optim/index.js';
import type { Strategy } from '../parallel/index.js';

/** What is saved: the parameters that train, and the optimizer of their parts. */
export interface Subject {
  readonly trainable: readonly (readonly [string, Tensor])[];
  readonly optimizer: Optimizer;
  readonly strategy: Strategy;
}

type Values = OptimizerState['values'];

/** This rank's share of a checkpoint. `first`: it also writes what is not sharded. */
export function contentOf(subject: Subject, first: boolean): { groups: PartGroups; values: Values } {
  const { trainable, optimizer, strategy } = subject;
  const parameters = new Map(trainable);
  const model = new Map<string, TensorPart>();
  for (const [name, parameter] of trainable) {
    const part = partOf(parameter, parameter, strategy, first);
    if (part !== null) model.set(name, part);
  }
  const { tensors, values } = optimizer.stateDict();
  const states = new Map<string, TensorPart>();
  for (const [key, state] of tensors) {
    const part = partOf(state, parameters.get(parameterOf(key)), strategy, first);
    if (part !== null) states.set(key, part);
  }
  return { groups: { model, optimizer: states }, values };
}

/** What this rank writes of `t`, the parameter itself or a state of it; null where others write it. */
function partOf(t: Tensor, parameter: Tensor | undefined, strategy: Strategy, first: boolean): TensorPart | null {
  const part = parameter && strategy.part(parameter);
  const own = t === parameter ? part?.tensor : t;
  const isCut = part !== undefined && part.tensor !== parameter && own!.shape.join() === part.tensor.shape.join();
  const isHere = own!.numel > 0 || (first && parameter?.numel === 0);
  if (isCut) return isHere ? { tensor: own!, shape: parameter!.shape, start: part.start } : null;
  return first ? { tensor: own!, shape: own!.shape, start: 0 } : null;
}

/** `transformer.wte.weight.exp_avg` is a state of `transformer.wte.weight`. */
const parameterOf = (key: string) => key.slice(0, key.lastIndexOf('.'));

/** A rank counts the updates of what it holds; of a parameter that is cut, those who hold some of it know. */
export function joinValues(all: readonly Values[]): Values {
  const steps: Record<string, number> = {};
  for (const { steps: own } of all) {
    for (const [name, step] of Object.entries((own ?? {}) as Record<string, number>)) {
      steps[name] = Math.max(steps[name] ?? 0, step);
    }
  }
  return { ...all[0]!, steps };
}

/** Copies the saved elements of this rank's parts into them. Throws BAD_CHECKPOINT when the parameters are others. */
export function loadParameters({ trainable, strategy }: Subject, checkpoint: Checkpoint): void {
  const saved = checkpoint.specs('model');
  const shapeOf = (t: { shape: readonly number[] } | undefined) =>
    t === undefined ? 'none' : `[${t.shape.join(', ')}]`;
  const own = new Map(trainable);
  for (const name of new Set([...own.keys(), ...saved.keys()])) {
    const [expected, received] = [shapeOf(own.get(name)), shapeOf(saved.get(name))];
    if (expected === received) continue;
    throw new ShardloopError(
      'BAD_CHECKPOINT',
      `${checkpoint.path}: ${name}: expected the shape ${expected} that trains here, received ${received}. Resume with the same model, method and adapter options`,
    );
  }
  for (const [name, parameter] of trainable) {
    const { tensor, start } = strategy.part(parameter);
    noGrad(() => scope(() => ops.copy_(tensor, read(checkpoint, 'model', name, tensor, start))));
  }
}

/** The saved state of the optimizer of this rank's parts. Its tensors are the caller's. */
export function optimizerState(
  { trainable, strategy }: Subject,
  checkpoint: Checkpoint,
  values: Values,
): OptimizerState {
  const tensors = new Map<string, Tensor>();
  const parameters = new Map(trainable);
  for (const [key, { shape }] of checkpoint.groups.includes('optimizer') ? checkpoint.specs('optimizer') : []) {
    const parameter = parameters.get(parameterOf(key));
    const part = parameter && strategy.part(parameter);
    const isCut = part !== undefined && part.tensor !== parameter && shape.join() === parameter!.shape.join();
    tensors.set(
      key,
      isCut ? read(checkpoint, 'optimizer', key, part.tensor, part.start) : checkpoint.tensor('optimizer', key),
    );
  }
  return { tensors, values };
}

/** The elements from `start` on, in the shape of `part`. */
function read(checkpoint: Checkpoint, group: string, name: string, part: Tensor, start: number): Tensor {
  return noGrad(() =>
    scope(() => ops.view(checkpoint.elements(group, name, start, start + part.numel), [...part.shape])),
  );
}
