// A DeepSpeed config (`--deepspeed FILE`) as options of a run. Every key is either taken over, or says what is done here
// anyway, or is a problem that is named; none is ignored. 'auto' leaves the option to the command, as transformers does.
import { readFileSync } from 'node:fs';
import { forCommand, nameOf, words } from '../core/option-names.js';

/** What {@link readDeepSpeed} found. */
export interface DeepSpeedOptions {
  /** Options of a run by key. */
  readonly values: Record<string, unknown>;
  readonly problems: string[];
}

/** What the command says about the same things already. */
export interface Known {
  readonly world: number;
  readonly microBatch?: number;
  readonly gradAccum?: number;
  readonly maxSteps?: number;
}

type Leaf = (value: unknown, found: Found) => string | undefined;

interface Found {
  values: Record<string, unknown>;
  offload: { optimizer?: 'none' | 'cpu' | 'nvme'; parameters?: 'none' | 'cpu' };
  triple: { train?: number; micro?: number; accum?: number };
  /** Of fp16 and bf16: which are switched on. */
  enabled: Set<string>;
  known: Known;
}

const isNumber = (value: unknown): value is number => typeof value === 'number' && Number.isFinite(value);
const show = (value: unknown) => JSON.stringify(value);

/** A number that becomes the option `key`. */
const number =
  (key: string, convert = (n: number): unknown => n): Leaf =>
  (value, { values }) => {
    if (!isNumber(value)) return `expected a number, received ${show(value)}`;
    values[key] = convert(value);
  };

/** A text that becomes the option `key`. */
const text =
  (key: string): Leaf =>
  (value, { values }) => {
    if (typeof value !== 'string' || value === '') return `expected a text, received ${show(value)}`;
    values[key] = value;
  };

/** Takes only the values that say what is done here anyway. */
const only =
  (...taken: unknown[]): Leaf =>
  (value) =>
    taken.some((each) => each === value)
      ? undefined
      : `expected ${taken.map(show).join(' or ')}, which is what is done here, received ${show(value)}`;

const batch =
  (part: 'train' | 'micro' | 'accum'): Leaf =>
  (value, { triple }) => {
    if (!isNumber(value) || !Number.isInteger(value) || value < 1)
      return `expected a whole number from 1, received ${show(value)}`;
    triple[part] = value;
  };

const choice =
  (key: string, table: Record<string, unknown>): Leaf =>
  (value, { values }) => {
    if (typeof value !== 'string' || !Object.hasOwn(table, value))
      return `expected one of ${Object.keys(table).join(', ')}, received ${show(value)}`;
    values[key] = table[value];
  };

const switched =
  (precision: string): Leaf =>
  (value, { enabled }) => {
    if (typeof value !== 'boolean') return `expected true or false, received ${show(value)}`;
    if (value) enabled.add(precision);
  };

/** What the batch consists of, besides ranks: the key there, the option here. */
const KEY = { micro: 'train_micro_batch_size_per_gpu', accum: 'gradient_accumulation_steps' } as const;
const OPTION = { micro: 'microBatch', accum: 'gradAccum' } as const;

/** What becomes of each key. Buckets are counted in elements there and in MiB here; gradients of 4 bytes are assumed. */
const KEYS: Record<string, Leaf> = {
  train_batch_size: batch('train'),
  [KEY.micro]: batch('micro'),
  [KEY.accum]: batch('accum'),
  gradient_clipping: number('clip'),
  steps_per_print: number('logSteps'),
  communication_data_type: choice('reduceDtype', { fp32: 'fp32', bf16: 'bf16', bfp16: 'bf16' }),
  wall_clock_breakdown: only(false),
  prescale_gradients: only(false),
  zero_allow_untested_optimizer: only(true, false),
  zero_force_ds_cpu_optimizer: only(false),
  'zero_optimization.stage': number('zero'),
  'zero_optimization.reduce_bucket_size': number('bucketMb', (elements) => (elements * 4) / 2 ** 20),
  'zero_optimization.zero_hpz_partition_size': number('shardRanks'),
  'zero_optimization.overlap_comm': only(true),
  'zero_optimization.contiguous_gradients': only(true),
  'zero_optimization.reduce_scatter': only(true),
  'zero_optimization.round_robin_gradients': only(false),
  'zero_optimization.stage3_gather_16bit_weights_on_model_save': only(true),
  'zero_optimization.offload_optimizer.device': (value, { offload }) => {
    if (value !== 'none' && value !== 'cpu' && value !== 'nvme')
      return `expected one of none, cpu, nvme, received ${show(value)}`;
    offload.optimizer = value;
  },
  'zero_optimization.offload_optimizer.nvme_path': text('offloadFolder'),
  'zero_optimization.offload_optimizer.pin_memory': only(true, false), // it is, where it travels to a CUDA device
  'zero_optimization.offload_param.device': (value, { offload }) => {
    if (value !== 'none' && value !== 'cpu') return `expected none or cpu, received ${show(value)}`;
    offload.parameters = value;
  },
  'zero_optimization.offload_param.pin_memory': only(true, false),
  'bf16.enabled': switched('bf16'),
  'fp16.enabled': switched('fp16'),
  'fp16.auto_cast': only(false),
  'fp16.loss_scale': number('lossScale', (scale) => (scale === 0 ? 'dynamic' : scale)),
  'fp16.initial_scale_power': number('lossScaleInitial', (power) => 2 ** power),
  'fp16.loss_scale_window': number('lossScaleWindow'),
  'fp16.hysteresis': number('lossScaleHysteresis'),
  'fp16.consecutive_hysteresis': only(false),
  'fp16.min_loss_scale': number('minLossScale'),
  'optimizer.type': choice('optimizer', { AdamW: 'adamw', SGD: 'sgd', Lion: 'lion' }),
  'optimizer.params.lr': number('lr'),
  'optimizer.params.eps': number('epsilon'),
  'optimizer.params.weight_decay': number('weightDecay'),
  'optimizer.params.momentum': number('beta1'),
  'optimizer.params.torch_adam': only(true, false),
  'optimizer.params.adam_w_mode': only(true),
  'optimizer.params.betas': (value, { values }) => {
    if (!Array.isArray(value) || value.length !== 2 || !value.every(isNumber))
      return `expected two numbers, received ${show(value)}`;
    [values.beta1, values.beta2] = value;
  },
  'scheduler.type': choice('schedule', { WarmupLR: 'constant', WarmupDecayLR: 'linear', WarmupCosineLR: 'cosine' }),
  'scheduler.params.warmup_num_steps': number('warmupSteps'),
  'scheduler.params.warmup_max_lr': number('lr'),
  'scheduler.params.warmup_min_lr': only(0),
  'scheduler.params.warmup_min_ratio': only(0),
  'scheduler.params.warmup_type': only('linear'),
  'scheduler.params.cos_min_ratio': number('minLrRatio'),
  'scheduler.params.total_num_steps': (value, { values, known }) => {
    if (!isNumber(value)) return `expected a number, received ${show(value)}`;
    if (known.maxSteps !== undefined && known.maxSteps !== value)
      return words`expected the steps of the run, ${known.maxSteps} (--max-steps), received ${value}`;
    values.maxSteps = value;
  },
  'activation_checkpointing.partition_activations': only(false),
  'activation_checkpointing.cpu_checkpointing': only(false),
  'activation_checkpointing.contiguous_memory_optimization': only(false),
  'activation_checkpointing.synchronize_checkpoint_boundary': only(false),
  'activation_checkpointing.profile': only(false),
  'activation_checkpointing.number_checkpoints': only(null),
};

/** Reads a DeepSpeed config. `path` is for messages too. */
export function readDeepSpeed(path: string, known: Known): DeepSpeedOptions {
  let json: unknown;
  try {
    json = JSON.parse(readFileSync(path, 'utf8'));
  } catch (cause) {
    return { values: {}, problems: [words`--deepspeed ${path}: expected a JSON file, ${(cause as Error).message}`] };
  }
  if (typeof json !== 'object' || json === null || Array.isArray(json))
    return { values: {}, problems: [words`--deepspeed ${path}: expected an object, received ${show(json)}`] };
  const found: Found = { values: {}, offload: {}, triple: {}, enabled: new Set(), known };
  const problems: string[] = [];
  walk(json, '', found, (key, problem) => problems.push(`${key} in ${path}: ${problem}`));
  if ('activation_checkpointing' in json) found.values.checkpointing = 'full';
  if (found.enabled.size > 1) problems.push(`${path}: expected fp16 or bf16 to be enabled, received both`);
  else for (const precision of found.enabled) found.values.precision = precision;
  problems.push(...solveOffload(path, found), ...solveBatch(path, found));
  return { values: found.values, problems };
}

function walk(node: object, prefix: string, found: Found, report: (key: string, problem: string) => void): void {
  for (const [name, value] of Object.entries(node)) {
    const key = prefix + name;
    const leaf = KEYS[key];
    const isFolder = Object.keys(KEYS).some((known) => known.startsWith(`${key}.`));
    if (leaf !== undefined) {
      const problem = value === 'auto' ? undefined : leaf(value, found);
      if (problem !== undefined) report(key, problem);
    } else if (isFolder && typeof value === 'object' && value !== null) walk(value, `${key}.`, found, report);
    else report(key, 'not supported here; remove it');
  }
}

/** What lies in host memory, and what on a disk. */
function solveOffload(path: string, { offload: { optimizer, parameters }, values }: Found): string[] {
  const key = `zero_optimization.offload_optimizer in ${path}`;
  const onDisk = optimizer === 'nvme';
  if (onDisk !== (values.offloadFolder !== undefined))
    return [
      `${key}: expected device nvme and nvme_path, or neither; received ${onDisk ? 'no nvme_path' : 'nvme_path alone'}`,
    ];
  if (parameters === 'cpu' && (optimizer ?? 'none') === 'none')
    return [`${key}: expected device cpu or nvme beside offload_param, received none: with the parameters it goes too`];
  if (parameters === 'cpu') values.offload = 'parameters';
  else if (optimizer !== undefined && optimizer !== 'none') values.offload = 'optimizer';
  return [];
}

/** global batch = micro-batch x accumulation x ranks: fills in what is missing, and says where three do not fit. */
function solveBatch(path: string, { triple, values, known }: Found): string[] {
  const { train } = triple;
  const { world } = known;
  const problems: string[] = [];
  const same = (name: string, there: number | undefined, here: number | undefined): number | undefined => {
    if (there !== undefined && here !== undefined && there !== here)
      problems.push(
        `${name}: ${path} says ${there}, the ${forCommand('command', 'program')} ${here}; leave one of them out`,
      );
    return there ?? here;
  };
  // As the file names it, where it does.
  const written = (part: 'micro' | 'accum') => (triple[part] === undefined ? nameOf(OPTION[part]) : KEY[part]);
  let micro = same(nameOf(OPTION.micro), triple.micro, known.microBatch);
  let accum = same(nameOf(OPTION.accum), triple.accum, known.gradAccum);
  if (train !== undefined) {
    if (micro === undefined) micro = train / world / (accum ?? 1);
    accum ??= train / world / micro;
    if (!Number.isInteger(micro) || !Number.isInteger(accum) || micro * accum * world !== train) {
      problems.push(
        `${path}: expected train_batch_size = ${written('micro')} x ${written('accum')} x ranks, received ${train} for ` +
          `${micro} x ${accum} x ${world}`,
      );
      return problems; // a fraction of a record would be a second problem
    }
  }
  if (micro !== undefined) values.microBatch = micro;
  if (accum !== undefined) values.gradAccum = accum;
  return problems;
}
