// `--deepspeed FILE` against DeepSpeed's own reading of the same file: batch, precision, loss scale, stage, clipping,
// optimizer and schedule; and which files are refused here, there, or on both sides. Skipped where an
// environment of one's own (SHARDLOOP_ORACLE_PYTHON) has no DeepSpeed.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { finetuneSchema } from '../../lib/train/config.js';
import { resolveConfig } from '../../lib/train/config-sources.js';
import { makeSchedule } from '../../lib/train/optimizer.js';
import { python, pythonPath } from './python.js';

const probe = 'import importlib.util as u, sys; sys.exit(u.find_spec("deepspeed") is None)';
const isInstalled = spawnSync(pythonPath(), ['-c', probe]).status === 0;
if (!isInstalled)
  console.warn(`deepspeed.test.ts is skipped: ${pythonPath()} has no DeepSpeed (pip install deepspeed)`);

const folder = mkdtempSync(join(tmpdir(), 'shardloop-oracle-deepspeed-'));
afterAll(() => rmSync(folder, { recursive: true }));

interface Theirs {
  refused?: string;
  values?: Record<string, unknown> & { rates: number[]; optimizer_params: Record<string, unknown> | null };
}

async function both(config: object, world: number, steps = 0) {
  const { value } = await python<Theirs>('deepspeed_config', { config, world, steps });
  const file = join(folder, 'ds.json');
  writeFileSync(file, JSON.stringify(config));
  const flags = { model: 'm', data: 'd', out: 'o', deepspeed: file, nproc: world };
  try {
    return { theirs: value, ours: resolveConfig(finetuneSchema, { flags }).config, refused: null };
  } catch (error) {
    return { theirs: value, ours: null, refused: (error as Error).message };
  }
}

const micro = { train_micro_batch_size_per_gpu: 2 };
const adamw = { type: 'AdamW', params: { lr: 3e-4, betas: [0.8, 0.95], eps: 1e-6, weight_decay: 0.1 } };

describe.runIf(isInstalled)('--deepspeed beside DeepSpeed', () => {
  it.each<[object, number]>([
    [{ train_batch_size: 24 }, 2],
    [{ train_batch_size: 24, train_micro_batch_size_per_gpu: 3 }, 2],
    [{ train_batch_size: 24, gradient_accumulation_steps: 4 }, 3],
    [{ train_micro_batch_size_per_gpu: 3, gradient_accumulation_steps: 4 }, 4],
    [{ train_micro_batch_size_per_gpu: 3 }, 1],
    [{ train_batch_size: 24, train_micro_batch_size_per_gpu: 3, gradient_accumulation_steps: 4 }, 2],
  ])('solves the batch of %j on %i ranks', async (config, world) => {
    const { theirs, ours } = await both(config, world);
    const { train, micro, accum } = theirs.values!;
    expect([ours!.microBatch, ours!.gradAccum, ours!.microBatch * ours!.gradAccum * world]).toEqual([
      micro,
      accum,
      train,
    ]);
  });

  it.each<[object, number]>([
    [{ train_batch_size: 7 }, 2],
    [{ train_batch_size: 24, train_micro_batch_size_per_gpu: 5 }, 2],
    [{ train_batch_size: 25, train_micro_batch_size_per_gpu: 3, gradient_accumulation_steps: 4 }, 2],
    [{ train_batch_size: 0 }, 1],
    [{ ...micro, zero_optimization: { stage: 4 } }, 1],
    [{ ...micro, bf16: { enabled: true }, fp16: { enabled: true } }, 1],
    [{ ...micro, zero_optimization: { stage: 'two' } }, 1],
  ])('refuses %j on %i ranks, as DeepSpeed does', async (config, world) => {
    const { theirs, refused } = await both(config, world);
    expect(theirs.refused).toBeDefined();
    expect(refused).not.toBeNull();
  });

  it.each<[object, string]>([
    [{ zero_optimization: { stage: 3, offload_param: { device: 'cpu' } } }, 'offload_param'],
    [{ optimizer: { type: 'OneBitAdam', params: { lr: 1 } } }, 'optimizer.type'],
    [{ prescale_gradients: true }, 'prescale_gradients'],
    [{ flops_profiler: { enabled: true } }, 'flops_profiler'],
  ])('names what it does not do, where DeepSpeed takes %j', async (config, name) => {
    const { theirs, refused } = await both({ ...micro, ...config }, 1);
    expect(theirs.refused).toBeUndefined();
    expect(refused).toContain(name);
  });

  it('leaves to the command what DeepSpeed must be told: the batch', async () => {
    for (const config of [{ gradient_accumulation_steps: 2 }, {}]) {
      const { theirs, ours } = await both(config, 1);
      expect(theirs.refused).toContain('needs to be provided');
      expect(ours).not.toBeNull();
    }
  });

  it('has the command’s defaults for what the file leaves out', async () => {
    const scheduler = { type: 'WarmupLR', params: { warmup_max_lr: 3e-4, warmup_num_steps: 10 } };
    const { theirs, ours } = await both({ ...micro, optimizer: adamw, scheduler }, 1, 10);
    expect(ours!.clip).toBe(theirs.values!.clip);
    // Without warmup_type DeepSpeed's warm-up is logarithmic, and here it is linear.
    expect(theirs.values!.rates[5]! / 3e-4).toBeCloseTo(Math.log(5) / Math.log(10), 5);
    expect(makeSchedule(ours!, 10)(5)).toBeCloseTo(6 / 11, 5);
  });

  it('takes the same stage, clipping, steps, bucket and shards', async () => {
    const zero_optimization = { stage: 2, reduce_bucket_size: 3 * 2 ** 20, zero_hpz_partition_size: 2 };
    const config = { ...micro, zero_optimization, gradient_clipping: 0.7, steps_per_print: 7 };
    const { theirs, ours } = await both(config, 4);
    const { stage, bucket, shard_ranks, clip, log_steps, precision } = theirs.values!;
    expect(ours).toMatchObject({ zero: stage, shardRanks: shard_ranks, clip, logSteps: log_steps, precision });
    expect((ours!.bucketMb! * 2 ** 20) / 4).toBe(bucket);
  });

  it.each([
    { bf16: { enabled: true } },
    { fp16: { enabled: true, loss_scale: 0, initial_scale_power: 12, loss_scale_window: 50, hysteresis: 3 } },
    { fp16: { enabled: true, min_loss_scale: 4 } },
    { fp16: { enabled: true, loss_scale: 128 } },
    { fp16: { enabled: false }, bf16: { enabled: false } },
    { fp16: { enabled: true } },
  ])('takes the same precision and loss scale of %j', async (config) => {
    const { theirs, ours } = await both({ ...micro, ...config }, 1);
    const { precision, loss_scale, initial_scale, window, hysteresis, min_scale } = theirs.values!;
    expect(ours!.precision).toBe(precision);
    if (precision !== 'fp16') return;
    expect(ours).toMatchObject({
      ...{ lossScale: loss_scale === 0 ? 'dynamic' : loss_scale, lossScaleInitial: initial_scale },
      ...{ lossScaleWindow: window, lossScaleHysteresis: hysteresis, minLossScale: min_scale },
    });
  });

  it.each<[object, string]>([
    [adamw, 'adamw'],
    [{ type: 'SGD', params: { lr: 0.1, momentum: 0.7, weight_decay: 0.01 } }, 'sgd'],
    [{ type: 'Lion', params: { lr: 1e-4, betas: [0.9, 0.98] } }, 'lion'],
  ])('takes the same optimizer of %j', async (optimizer, name) => {
    const { theirs, ours } = await both({ ...micro, optimizer }, 1);
    const given = theirs.values!.optimizer_params as {
      lr: number;
      betas?: number[];
      momentum?: number;
      eps?: number;
      weight_decay?: number;
    };
    expect([String(theirs.values!.optimizer).toLowerCase(), ours!.optimizer]).toEqual([name, name]);
    expect(ours!.lr).toBe(given.lr);
    expect(ours!.beta1).toBe(given.betas?.[0] ?? given.momentum);
    if (given.betas) expect(ours!.beta2).toBe(given.betas[1]);
    if (given.eps !== undefined) expect(ours!.epsilon).toBe(given.eps);
    if (given.weight_decay !== undefined) expect(ours!.weightDecay).toBe(given.weight_decay);
  });

  it.each<[string, object]>([
    ['WarmupLR', { warmup_max_lr: 3e-4 }],
    ['WarmupDecayLR', { warmup_max_lr: 3e-4, total_num_steps: 60 }],
    ['WarmupCosineLR', { cos_min_ratio: 0.1, total_num_steps: 60 }],
  ])('takes the learning rates of %s', async (type, more) => {
    const [steps, warmup] = [60, 10];
    const params = { ...more, warmup_num_steps: warmup, warmup_type: 'linear' };
    const { theirs, ours } = await both({ ...micro, optimizer: adamw, scheduler: { type, params } }, 1, steps);
    const factor = makeSchedule(ours!, steps);
    const rates = theirs.values!.rates;
    expect(rates).toHaveLength(steps);
    for (const [step, rate] of rates.entries()) {
      // DeepSpeed's first two updates have a rate of 0, so that its schedule is two steps behind within the warm-up and
      // one step behind it; here the first update has one.
      const apart = Math.abs(ours!.lr * factor(step) - rate) / ours!.lr;
      expect(apart, `update ${step + 1}`).toBeLessThan(step < warmup + 2 ? 2 / warmup : 2 / (steps - warmup));
    }
  });
});
