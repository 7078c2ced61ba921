// The options of `pretrain` and `finetune`: one documented zod object each. The same keys are flags (--lora-rank),
// environment variables (SHARDLOOP_LORA_RANK) and keys of a config file (loraRank or lora-rank).
// Where a value comes from is decided in config-sources.ts; nothing here reads a file or the environment.
import { z } from 'zod';

const positive = () => z.number().positive();
const whole = (least: number) => z.int().min(least);
const decayRate = () => z.number().min(0).lt(1);
const share = () => z.number().min(0).max(1);

/** Options that every kind of training shares. */
const training = {
  nproc: whole(1)
    .default(1)
    .describe('processes (ranks) to start on this host; under torchrun, Slurm or mpirun the launcher decides'),
  maxRestarts: whole(0)
    .default(0)
    .describe('how often all ranks start again, from the newest checkpoint (see `saveSteps`), after one failed'),
  epochs: positive().max(1e9).default(1).describe('passes over the data; a fraction stops in mid-epoch'),
  maxSteps: whole(1).optional().describe('stop after this many steps, whatever `epochs` says'),
  microBatch: whole(1).default(4).describe('records (with `pack`: packed sequences) a rank computes at once'),
  gradAccum: whole(1)
    .default(1)
    .describe('micro-batches a rank adds up before a step; global batch = microBatch x gradAccum x ranks'),
  lr: positive().default(2e-4).describe('peak learning rate'),
  schedule: z
    .enum(['constant', 'linear', 'cosine', 'wsd'])
    .default('cosine')
    .describe('learning rate after warm-up: constant, linear, cosine, or wsd (stable, then linear decay)'),
  warmupSteps: whole(0).optional().describe('steps of linear warm-up (default: 3% of all steps)'),
  minLrRatio: share().default(0).describe('learning rate at the end, as a share of the peak'),
  decayRatio: share().default(0.2).describe('share of all steps in which `wsd` decays'),
  optimizer: z
    .enum(['adamw', 'sgd', 'adafactor', 'lion', 'muon'])
    .default('adamw')
    .describe('the update rule; muon is for the matrices inside the model, with adamw for the rest'),
  weightDecay: z.number().min(0).default(0).describe('decoupled weight decay of matrices; biases and norms have none'),
  beta1: decayRate().default(0.9).describe('decay of the first moment (adamw, lion), or the momentum (sgd, muon)'),
  beta2: decayRate().default(0.999).describe('decay of the second moment (adamw, lion)'),
  epsilon: positive().default(1e-8).describe('added to the denominator (adamw)'),
  clip: z.number().min(0).default(1).describe('largest global gradient norm; 0 does not clip'),
  precision: z
    .enum(['fp32', 'bf16', 'fp16', 'bf16-autocast'])
    .default('fp32')
    .describe('bf16, fp16: such weights, with fp32 masters of what trains; bf16-autocast: fp32 weights, bf16 products'),
  lossScale: z
    .union([z.literal('dynamic'), positive()])
    .default('dynamic')
    .describe('factor on the loss of fp16: dynamic, or a fixed number'),
  lossScaleInitial: positive().default(65536).describe('where a dynamic loss scale begins'),
  lossScaleWindow: whole(1).default(1000).describe('steps without overflow before a dynamic loss scale doubles'),
  lossScaleHysteresis: whole(1).default(2).describe('the dynamic loss scale falls from this overflow of a window on'),
  minLossScale: positive().default(1).describe('the least dynamic loss scale; an overflow at it ends the run'),
  deepspeed: z
    .string()
    .min(1)
    .optional()
    .describe('DeepSpeed config (JSON) to take options from; what it says and is not supported is named'),
  zero: whole(0)
    .max(3)
    .default(0)
    .describe('shard over the ranks: 0 nothing, 1 the optimizer, 2 gradients too, 3 parameters too (ZeRO)'),
  shardRanks: whole(1)
    .optional()
    .describe('hybrid sharding: neighbouring ranks that share one set of shards (default: all ranks)'),
  reduceDtype: z
    .enum(['same', 'fp32', 'bf16'])
    .default('same')
    .describe('dtype in which gradients travel: their own, fp32, or bf16'),
  compress: z
    .enum(['none', 'int8', 'topk'])
    .default('none')
    .describe('with `zero`, pack gradients on the wire: blocks of int8, or the largest ones with error feedback'),
  compressRatio: positive().max(1).default(0.01).describe('share of the gradients that `topk` sends'),
  bucketMb: positive()
    .optional()
    .describe('most MiB of gradients that travel together (default: 25 over NCCL, else 16 with `zero` and 4 without)'),
  offload: z
    .enum(['none', 'optimizer', 'parameters'])
    .default('none')
    .describe('with `zero` and CUDA: keep optimizer and gradients in host memory, or with stage 3 the parameters too'),
  offloadFolder: z
    .string()
    .min(1)
    .optional()
    .describe("folder on a local disk for the optimizer's states (memory-mapped files); on CUDA beside `offload`"),
  checkpointing: z
    .union([z.enum(['none', 'full']), whole(1)])
    .default('none')
    .describe('activation checkpointing: none, full (recompute every segment), or N (recompute every N-th)'),
  seed: whole(0).default(1).describe('of initial weights, shuffle and dropout'),
  threads: whole(1).optional().describe('CPU threads a rank (default: the cores divided by the ranks)'),
  device: z.enum(['auto', 'cpu', 'cuda']).default('auto').describe('auto takes CUDA where this build and host have it'),
  saveSteps: whole(0)
    .default(0)
    .describe(
      'write a checkpoint every N steps, but not behind the last, whose result is in `out`; 0: only when interrupted',
    ),
  saveTotalLimit: whole(1).default(2).describe('how many checkpoints are kept; older ones are removed'),
  saveBackground: z
    .boolean()
    .default(false)
    .describe('write checkpoints beside the training: a step only waits until its state is copied in memory'),
  saveThrottleMb: positive().optional().describe('most MB a second that a rank writes with `saveBackground`'),
  saveBest: z
    .boolean()
    .default(false)
    .describe('also keep the checkpoint with the lowest held-out loss (see `evalSteps`); `best` in `out` links to it'),
  resume: z
    .string()
    .optional()
    .describe(
      '`auto` (newest sound checkpoint in `out`, if any; damaged ones are named and set aside) or a checkpoint folder',
    ),
  evalSplit: z.number().min(0).max(0.9).default(0).describe('share of the records held out for evaluation'),
  evalData: z.string().optional().describe('file of records for evaluation (instead of `evalSplit`)'),
  evalSteps: whole(0).default(0).describe('evaluate every N steps; 0: only before the first and after the last'),
  trace: z
    .string()
    .min(1)
    .optional()
    .describe('file for a timeline of all ranks (Chrome trace format); the communication log is written beside it'),
  traceSteps: whole(1).default(5).describe('how many steps the timeline holds, from the second one on'),
  logSteps: whole(1).default(10).describe('without a terminal, print a line every N steps'),
};

/** Options of `shardloop finetune`. */
export const finetuneSchema = z.strictObject({
  model: z.string().min(1).describe('folder of a GPT-2-shaped Hugging Face model (required)'),
  data: z.string().min(1).describe('file of records: JSON, JSONL (also .gz), CSV, Parquet or text (required)'),
  out: z.string().min(1).describe('folder for the result, checkpoints and metrics (required)'),
  format: z
    .enum(['auto', 'json', 'jsonl', 'csv', 'parquet', 'text'])
    .default('auto')
    .describe('format of `data` and `evalData`; auto goes by the file name'),
  method: z.enum(['lora', 'full']).default('lora').describe('train a LoRA adapter, or all weights'),
  loraRank: whole(1).default(8).describe('rank of the adapter'),
  loraAlpha: positive().default(16).describe('scale of the adapter: alpha / rank'),
  loraDropout: z.number().min(0).max(0.99).default(0).describe('dropout before the adapter'),
  targetModules: z
    .union([z.string().min(1), z.array(z.string().min(1)).min(1)])
    .default('all-linear')
    .describe('what gets an adapter: all-linear, names (c_attn,c_proj), or a regular expression for whole names'),
  seqLen: whole(2).optional().describe("longest sequence in tokens (default: 512, or the model's context if shorter)"),
  overlong: z
    .enum(['truncate', 'error', 'skip'])
    .default('truncate')
    .describe('a conversation longer than `seqLen`: cut its end off, stop with an error, or leave it out'),
  pack: z.boolean().default(false).describe('fill sequences with several records; attention does not cross them'),
  template: z
    .string()
    .optional()
    .describe("file with a chat template (Jinja), or `none` (default: the model folder's own, if it has one)"),
  ...training,
});

/** Options of `shardloop pretrain`. */
export const pretrainSchema = z.strictObject({
  data: z.string().min(1).describe('text file, or records with a `text` field (required)'),
  out: z.string().min(1).describe('folder for the result, checkpoints and metrics (required)'),
  format: z
    .enum(['auto', 'json', 'jsonl', 'csv', 'parquet', 'text'])
    .default('auto')
    .describe('format of `data` and `evalData`; auto goes by the file name'),
  tokenizer: z.string().min(1).default('byte').describe('`byte`, or a folder with tokenizer.json'),
  layers: whole(1).default(4).describe('transformer blocks'),
  heads: whole(1).default(4).describe('attention heads of a block; must divide `width`'),
  width: whole(1).default(128).describe('size of the residual stream'),
  dropout: z.number().min(0).max(0.99).default(0).describe('of embeddings, attention and residuals'),
  seqLen: whole(2).default(256).describe('context of the model, and length of a training sequence, in tokens'),
  ...training,
  lr: positive().default(1e-3).describe('peak learning rate'),
  minLrRatio: share().default(0.1).describe('learning rate at the end, as a share of the peak'),
  weightDecay: z
    .number()
    .min(0)
    .default(0.1)
    .describe('decoupled weight decay of matrices; biases and norms have none'),
  beta2: decayRate().default(0.95).describe('decay of the second moment (adamw, lion)'),
});

/** Options of `shardloop plan`: the shape of a model, and those of a run that decide memory and traffic. */
export const planSchema = z.strictObject({
  model: z.string().min(1).optional().describe('folder with a config.json (else the shape below)'),
  layers: whole(1).default(12).describe('transformer blocks'),
  heads: whole(1).default(12).describe('attention heads of a block; must divide `width`'),
  width: whole(1).default(768).describe('size of the residual stream'),
  vocabulary: whole(1).default(50257).describe('entries of the vocabulary'),
  seqLen: whole(2).optional().describe("tokens of a sequence (default: 1024, or the model's context)"),
  world: whole(1)
    .max(2 ** 31 - 1)
    .default(1)
    .describe('ranks'),
  method: z.enum(['lora', 'full']).default('full').describe('train a LoRA adapter, or all weights'),
  loraRank: finetuneSchema.shape.loraRank,
  targetModules: finetuneSchema.shape.targetModules,
  precision: z.enum(['fp32', 'bf16', 'fp16']).default('fp32').describe('of the weights; half ones have an fp32 master'),
  ...pick('microBatch', 'gradAccum', 'optimizer', 'beta1'),
  ...pick('zero', 'shardRanks', 'reduceDtype', 'compress', 'compressRatio', 'bucketMb', 'checkpointing'),
  ...pick('offload', 'offloadFolder'),
});

function pick<K extends keyof typeof training>(...keys: K[]): Pick<typeof training, K> {
  return Object.fromEntries(keys.map((key) => [key, training[key]])) as Pick<typeof training, K>;
}

export type PlanConfig = z.infer<typeof planSchema>;
export type FinetuneConfig = z.infer<typeof finetuneSchema>;
export type PretrainConfig = z.infer<typeof pretrainSchema>;
export type TrainingConfig = FinetuneConfig | PretrainConfig;
export type TrainingSchema = typeof finetuneSchema | typeof pretrainSchema;
export type ConfigSchema = TrainingSchema | typeof planSchema;
