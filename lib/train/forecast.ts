// What a run will take, before anything is started: the step of training itself on meta tensors (shapes without memory),
// with the other ranks faked, while what the tensors would hold and what would cross the wire is counted.
import Table from 'cli-table3';
import { call, type DType, empty, memory, ops, ShardloopError, type Tensor } from '../core/index.js';
import { words } from '../core/option-names.js';
import { type Collective, createGroup, type Group } from '../dist/index.js';
import { GPT2LMHeadModel, loadShape } from '../models/index.js';
import { type Carry, segmentsOf } from '../nn/index.js';
import type { Place } from '../optim/index.js';
import { runSegments } from '../parallel/index.js';
import { addAdapter } from './adapter.js';
import { requireConfig } from './call-check.js';
import { type PlanConfig, planSchema } from './config.js';
import { resolveConfig } from './config-sources.js';
import { MemoryLedger, type MemoryUse } from './memory-ledger.js';
import { makeOptimizer } from './optimizer.js';
import { weightDtype } from './precision.js';
import { fillsShards, spread } from './spread.js';

/** What one rank does and holds in one step. */
export interface Forecast {
  readonly ranks: number;
  readonly parameters: number;
  readonly trainable: number;
  /** Sequences of a step over all ranks, and their tokens. */
  readonly globalBatch: number;
  readonly tokens: number;
  /** Kernels' scratch memory, what Gloo copies on its way, and the process itself (about 0.15 GB) are not in it. */
  readonly memory: MemoryUse;
  /** What offload keeps in host memory besides; no activations. */
  readonly host: Omit<MemoryUse, 'activations'>;
  /** Bytes of the files that `offloadFolder` takes. */
  readonly files: number;
  /** Bytes over the busiest link of a rank in one direction, by operation. */
  readonly wire: Partial<Record<Collective, number>>;
}

/**
 * Predicts memory and traffic of one step, a rank. Throws BAD_CONFIG for options that do not fit each other, BAD_MODEL for
 * a folder that describes none.
 */
export async function forecast(options: Partial<PlanConfig>): Promise<Forecast> {
  requireConfig('forecast', options, 'of a plan, such as { world }');
  const { config } = resolveConfig(planSchema, { flags: options });
  const [ledger, host, files] = [
    new MemoryLedger('meta'),
    new MemoryLedger('meta:host'),
    new MemoryLedger('meta:files'),
  ];
  const book = (kind: 'parameters' | 'optimizer' | 'gradients') => {
    for (const each of [ledger, host, files]) each.book(kind);
  };
  const model = await shapeOf(config);
  if (fillsShards(config, { size: config.world })) {
    // A run makes such a model without memory, and fills one shard after the other: no rank ever holds it whole.
    for (const t of model.parameters()) call('shardloop::resize_storage_', t, 0);
    memory.resetPeak('meta');
  }
  const trainable = model.namedParameters().filter(([, t]) => t.requiresGrad);
  const counts = { parameters: count(model.parameters()), trainable: count(trainable.map(([, t]) => t)) };
  const group = await createGroup({ rank: 0, size: config.world, backend: 'fake', name: 'plan' });
  const segments = segmentsOf(model);
  const { strategy, groups, close } = await spread({ config, group }, segments);
  book('parameters');
  const besideParts = config.offload === 'none' ? 'meta' : 'meta:host'; // states live where the parts do
  const rates = { lr: 1, weightDecay: 0, beta2: 0.999, epsilon: 1e-8 };
  const make = () => makeOptimizer(trainable, { ...config, ...rates }, strategy, () => inFiles);
  const optimizer = memory.standingFor(besideParts, make);
  try {
    memory.standingFor(besideParts, () => optimizer.prepare());
    book('optimizer');
    const { microBatch, gradAccum, checkpointing } = config;
    const length = config.seqLen ?? Math.min(1024, model.config.n_positions);
    let atStart: ReturnType<typeof busBytes>[] = [];
    // The second step is like all later ones: buckets are there, and parameters of other ranks have to be fetched.
    for (const step of [1, 2]) {
      if (step === 2) atStart = groups.map(busBytes);
      await strategy.begin(segments);
      for (let i = 1; i <= gradAccum; i++) {
        const ids = empty([microBatch, length], { dtype: 'int64', device: 'meta' });
        const input = model.inputs(ids, { targets: ids, divisor: 1 });
        const lossOf = ([loss]: Carry) => loss!;
        const loss = runSegments(segments, input, lossOf, { strategy, checkpointing, last: i === gradAccum });
        for (const t of [loss, ...input]) t[Symbol.dispose]();
      }
      await strategy.finish();
      if (step === 1) optimizer.zeroGrad();
      strategy.updated();
    }
    book('gradients');
    const { activations: _, ...onHost } = host.use();
    const globalBatch = microBatch * gradAccum * config.world;
    return {
      ...{ ranks: config.world, ...counts, globalBatch, tokens: globalBatch * length },
      ...{ memory: ledger.use(), host: onHost, files: files.use().peak },
      wire: wireOf(groups, atStart),
    };
  } finally {
    optimizer.zeroGrad();
    optimizer.dispose();
    await close();
    await group.destroy();
    model.dispose();
  }
}

/** States that a run keeps in files: no file is made. */
const inFiles: Place = (_, values) => memory.standingFor('meta:files', () => ops.empty_like(values));

async function shapeOf({ model: dir, ...config }: PlanConfig): Promise<GPT2LMHeadModel> {
  const dtype = weightDtype(config.precision);
  const model = dir === undefined ? newShape(config, dtype) : await loadShape(dir, { dtype });
  const { n_positions } = model.config;
  if (config.seqLen !== undefined && config.seqLen > n_positions) {
    throw new ShardloopError(
      'BAD_CONFIG',
      words`--seq-len: expected at most the model's ${n_positions} positions, received ${config.seqLen}`,
    );
  }
  if (config.method === 'lora') addAdapter(model, config);
  else model.requiresGrad(true);
  return model.train();
}

function newShape(config: Omit<PlanConfig, 'model'>, dtype: DType): GPT2LMHeadModel {
  const { layers: n_layer, heads: n_head, width: n_embd, vocabulary: vocab_size, seqLen = 1024 } = config;
  if (n_embd % n_head !== 0) {
    throw new ShardloopError('BAD_CONFIG', words`--heads: expected a divisor of --width ${n_embd}, received ${n_head}`);
  }
  const rates = { resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 };
  const shape = { n_layer, n_head, n_embd, vocab_size, n_positions: seqLen, ...rates };
  return new GPT2LMHeadModel(shape, { dtype, device: 'meta' });
}

const count = (tensors: readonly Tensor[]) => tensors.reduce((sum, t) => sum + t.numel, 0);

function busBytes({ traffic }: Group): Map<Collective, number> {
  return new Map([...traffic].map(([operation, { busBytes }]) => [operation, busBytes]));
}

/** What crossed the wire since `atStart`, by operation, over all groups. */
function wireOf(
  groups: readonly Group[],
  atStart: readonly ReadonlyMap<Collective, number>[],
): Partial<Record<Collective, number>> {
  const wire: Partial<Record<Collective, number>> = {};
  for (const [i, group] of groups.entries()) {
    for (const [operation, bytes] of busBytes(group)) {
      const sent = bytes - (atStart[i]!.get(operation) ?? 0);
      if (sent > 0) wire[operation] = (wire[operation] ?? 0) + sent;
    }
  }
  return wire;
}

/** The forecast for people. */
export function forecastTable(forecast: Forecast): string {
  const { ranks, parameters, trainable, globalBatch, tokens, wire } = forecast;
  const table = new Table({ style: { head: [], border: [] }, colAligns: ['left', 'left'] });
  const whole = (n: number) => n.toLocaleString('en-US');
  const size = (bytes: number) => sizeOf(bytes);
  const sent = Object.entries(wire).map(([operation, bytes]) => `${operation} ${size(bytes)}`);
  table.push(
    ['parameters', `${whole(parameters)}, of which ${whole(trainable)} train`],
    [
      'a step',
      `${whole(globalBatch)} sequences over ${whole(ranks)} ${ranks === 1 ? 'rank' : 'ranks'}, ${whole(tokens)} tokens`,
    ],
    ...memoryRows(forecast).map(([what, bytes]) => [`${what} a rank`, size(bytes)] as [string, string]),
    ['on the wire a rank', sent.length > 0 ? sent.join(', ') : 'nothing'],
  );
  return table.toString();
}

/** Three digits of what is small; whole MiB of what is large, so that a table's rows compare at a glance. */
function sizeOf(bytes: number): string {
  const [unit, name] = bytes < 2 ** 20 ? [2 ** 10, 'KiB'] : [2 ** 20, 'MiB'];
  if (bytes < 2 ** 10) return `${Math.round(bytes)} bytes`;
  const size = bytes / unit;
  const digits = size < 100 ? 1 : 0;
  return `${size.toLocaleString('en-US', { maximumFractionDigits: digits })} ${name}`;
}

/** Host memory and files only where something was put there. */
function memoryRows({ memory, host, files }: Forecast): [string, number][] {
  const onHost = Object.entries(host).map(([kind, bytes]) => [`${kind} in host memory`, bytes] as [string, number]);
  return [
    ...Object.entries(memory),
    ...(host.peak > 0 ? onHost : []),
    ...(files > 0 ? [['optimizer in files', files] as [string, number]] : []),
  ];
}
