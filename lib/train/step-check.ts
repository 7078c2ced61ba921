// What a training step is called with: a program of one's own hands it over, in JavaScript or with a cast, and the messages name
// what is missing. Looked at once a step, before it begins, and at each micro-batch.
import { describe, isTensor, ShardloopError, type Tensor } from '../core/index.js';
import { segmentParameters } from '../nn/index.js';
import type { Optimizer } from '../optim/index.js';
import { CHECKPOINTING, isCheckpointing } from '../parallel/segments.js';
import type { MicroBatch, StepContext } from './step.js';

/** The methods that a step calls of what it is given. */
const METHODS = {
  strategy: ['begin', 'gather', 'release', 'reduce', 'finish', 'sumOverParts', 'updated'],
  group: ['sum'],
  optimizer: ['step', 'zeroGrad'],
  scaler: ['scaleLoss', 'update'],
} as const;

/** What to hand over instead. */
const INSTEAD = {
  strategy:
    'take one of parallel.replicate, parallel.zero or parallel.alone; your own may be { ...parallel.alone, and what differs }',
  group: 'take what dist.init() gives',
  optimizer: 'take one of optim, such as new optim.AdamW({ params })',
  scaler: 'take an optim.LossScaler, or leave it out',
} as const;

const PARTS = 'take parallel.partsOf(strategy, model.namedParameters()), without the names';

function refuse(key: string, expected: string, received: string, instead = ''): never {
  const what = `trainStep: ${key}: expected ${expected}, received ${received}`;
  throw new ShardloopError('BAD_ARGUMENT', instead === '' ? what : `${what}; ${instead}`);
}

function checkMethods(key: keyof typeof METHODS, value: unknown): void {
  const wanted: readonly string[] = METHODS[key];
  const given = Object(value ?? {}) as Readonly<Record<string, unknown>>;
  if (wanted.every((name) => typeof given[name] === 'function')) return;
  const expected = `an object with the method${wanted.length > 1 ? 's' : ''} ${wanted.join(', ')}`;
  const lacking = wanted.filter((name) => typeof given[name] !== 'function');
  const some = lacking.length < wanted.length;
  const odd = lacking.find((name) => given[name] !== undefined);
  const received =
    odd !== undefined ? `one whose ${odd} is ${describe(given[odd])}` : `one without ${lacking.join(', ')}`;
  refuse(key, expected, some || odd !== undefined ? received : describe(value), INSTEAD[key]);
}

/** Lists that were found to hold what this rank updates. */
const known = new WeakSet<readonly Tensor[]>();

/** A list without any part of what trains would be clipped and checked as if there were no gradient. */
function checkParts({ segments, strategy, parts }: StepContext): void {
  if (known.has(parts) || typeof strategy.part !== 'function') return;
  const given = new Set(parts);
  const trained = segments.flatMap(segmentParameters).filter(({ requiresGrad }) => requiresGrad);
  if (trained.length > 0 && !trained.some((parameter) => given.has(strategy.part(parameter).tensor))) {
    refuse('parts', 'what this rank updates of the parameters that train', `${describe(parts)} without any`, PARTS);
  }
  known.add(parts);
}

/** BAD_ARGUMENT unless the segments can run what a micro-batch's function gave. */
export function checkBatch(batch: MicroBatch): void {
  const { input, lossOf } = Object(batch ?? {}) as Partial<MicroBatch>;
  if (Array.isArray(input) && typeof lossOf === 'function') return;
  refuse('a micro-batch', 'an object of input, an array, and lossOf, a function', describe(batch));
}

/** BAD_ARGUMENT unless `precision` handed back the loss. */
export function checkShare(share: unknown): void {
  if (isTensor(share)) return;
  refuse('precision', 'a function that returns what it was given to run', `one that returned ${describe(share)}`);
}

/** BAD_ARGUMENT unless a step can be done with what it is called with. */
export function checkStep(context: StepContext, batches: unknown): void {
  if (typeof context !== 'object' || context === null) refuse('the first argument', 'a StepContext', describe(context));
  const { segments, parts, clip, checkpointing, scaler, nameOf, precision } = context;
  if (!Array.isArray(segments) || segments.length === 0) {
    refuse('segments', 'those of the model', describe(segments), 'take nn.segmentsOf(model)');
  }
  const odd = segments.find((one) => typeof one?.forward !== 'function' || !Array.isArray(one.modules));
  if (odd !== undefined)
    refuse('segments', 'those of the model', `${describe(odd)} among them`, 'take nn.segmentsOf(model)');
  checkMethods('strategy', context.strategy);
  checkMethods('group', context.group);
  checkMethods('optimizer', context.optimizer);
  if (scaler !== undefined && scaler !== null) checkMethods('scaler', scaler);
  if (!Array.isArray(parts)) {
    refuse('parts', 'an array of the tensors that this rank updates', describe(parts), PARTS);
  }
  checkParts(context);
  if (typeof clip !== 'number' || !(clip >= 0)) refuse('clip', 'a number from 0, which does not clip', describe(clip));
  if (!isCheckpointing(checkpointing)) refuse('checkpointing', CHECKPOINTING, describe(checkpointing));
  if (nameOf !== undefined && typeof nameOf !== 'function') refuse('nameOf', 'a function', describe(nameOf));
  if (typeof precision !== 'function') {
    refuse('precision', 'a function that runs what it is given', describe(precision), 'without autocast: (fn) => fn()');
  }
  const isList = Array.isArray(batches) && batches.every((make) => typeof make === 'function');
  if (!isList) refuse('the second argument', 'an array of functions that make a micro-batch', describe(batches));
}

const underWay = new WeakSet<Optimizer>();

/** One step of an optimizer begins; what is returned ends it. Two at once would add up each other's gradients. */
export function enter(optimizer: Optimizer): () => void {
  if (underWay.has(optimizer)) {
    const expected = 'expected the step before to be over, received another with the same optimizer';
    throw new ShardloopError('BAD_ARGUMENT', `trainStep: ${expected}; await trainStep(...) before the next`);
  }
  underWay.add(optimizer);
  return () => void underWay.delete(optimizer);
}
