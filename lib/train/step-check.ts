// What a training step is called with: a program of one's own hands it over, in JavaScript or with a cast, and the messages name
// what is missing. Looked at once a step; what a tensor or a segment holds is for who uses it.
import { describe, ShardloopError } from '../core/index.js';
import type { StepContext } from './step.js';

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
  refuse(key, expected, some ? `one without ${lacking.join(', ')}` : describe(value), INSTEAD[key]);
}

/** BAD_ARGUMENT unless a step can be done with what it is called with. */
export function checkStep(context: StepContext, batches: unknown): void {
  if (typeof context !== 'object' || context === null) refuse('the first argument', 'a StepContext', describe(context));
  const { segments, parts, clip, checkpointing, scaler, nameOf, precision } = context;
  if (!Array.isArray(segments) || segments.length === 0) {
    refuse('segments', 'those of the model', describe(segments), 'take nn.segmentsOf(model)');
  }
  checkMethods('strategy', context.strategy);
  checkMethods('group', context.group);
  checkMethods('optimizer', context.optimizer);
  if (scaler !== undefined && scaler !== null) checkMethods('scaler', scaler);
  if (!Array.isArray(parts)) {
    const instead = 'take parallel.partsOf(strategy, model.namedParameters()), without the names';
    refuse('parts', 'an array of the tensors that this rank updates', describe(parts), instead);
  }
  if (typeof clip !== 'number' || !(clip >= 0)) refuse('clip', 'a number from 0, which does not clip', describe(clip));
  const isEvery = Number.isSafeInteger(checkpointing) && (checkpointing as number) > 0;
  if (checkpointing !== 'none' && checkpointing !== 'full' && !isEvery) {
    refuse('checkpointing', "'none', 'full' or a whole number from 1", describe(checkpointing));
  }
  if (nameOf !== undefined && typeof nameOf !== 'function') refuse('nameOf', 'a function', describe(nameOf));
  if (typeof precision !== 'function') {
    refuse('precision', 'a function that runs what it is given', describe(precision), 'without autocast: (fn) => fn()');
  }
  const isList = Array.isArray(batches) && batches.every((make) => typeof make === 'function');
  if (!isList) refuse('the second argument', 'an array of functions that make a micro-batch', describe(batches));
}
