// A DeepSpeed config becomes the options of a run: what is taken over, what is refused by name, and the batch.
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { finetuneSchema } from '../../lib/train/config.js';
import { resolveConfig } from '../../lib/train/config-sources.js';
import { losses, makeTiny, tune } from './tiny.js';

const folder = mkdtempSync(join(tmpdir(), 'shardloop-deepspeed-'));
afterAll(() => rmSync(folder, { recursive: true }));
const file = join(folder, 'ds.json');

function resolve(json: unknown, flags: Record<string, unknown> = {}) {
  writeFileSync(file, typeof json === 'string' ? json : JSON.stringify(json));
  return resolveConfig(finetuneSchema, { flags: { model: 'm', data: 'd', out: 'o', deepspeed: file, ...flags } });
}
const refusal = (json: unknown, flags?: Record<string, unknown>) => {
  try {
    resolve(json, flags);
    return 'no error';
  } catch (error) {
    return (error as Error).message.replaceAll(file, 'ds.json');
  }
};

describe('--deepspeed', () => {
  it('takes over what it says, below flags and above defaults', () => {
    const { config, sources } = resolve(
      {
        train_micro_batch_size_per_gpu: 3,
        gradient_accumulation_steps: 2,
        gradient_clipping: 0.5,
        steps_per_print: 7,
        communication_data_type: 'fp32',
        zero_optimization: {
          ...{ stage: 2, reduce_bucket_size: 2 ** 20, overlap_comm: true, contiguous_gradients: true },
          ...{ reduce_scatter: true, offload_optimizer: { device: 'none' }, zero_hpz_partition_size: 2 },
        },
        bf16: { enabled: true },
        fp16: { enabled: false },
        optimizer: { type: 'AdamW', params: { lr: 3e-4, betas: [0.8, 0.9], eps: 1e-6, weight_decay: 'auto' } },
        scheduler: {
          type: 'WarmupCosineLR',
          params: {
            warmup_num_steps: 5,
            warmup_type: 'linear',
            warmup_min_lr: 0,
            cos_min_ratio: 0.2,
            total_num_steps: 50,
          },
        },
        activation_checkpointing: { partition_activations: false },
      },
      { lr: 1e-3, nproc: 4 },
    );
    expect(config).toMatchObject({
      ...{
        microBatch: 3,
        gradAccum: 2,
        clip: 0.5,
        logSteps: 7,
        reduceDtype: 'fp32',
        zero: 2,
        bucketMb: 4,
        shardRanks: 2,
      },
      ...{ precision: 'bf16', optimizer: 'adamw', lr: 1e-3, beta1: 0.8, beta2: 0.9, epsilon: 1e-6, weightDecay: 0 },
      ...{ schedule: 'cosine', warmupSteps: 5, minLrRatio: 0.2, maxSteps: 50, checkpointing: 'full' },
    });
    expect(sources).toMatchObject({ lr: 'flag', beta1: 'deepspeed', weightDecay: 'default' });
    const sgd = resolve({ optimizer: { type: 'SGD', params: { lr: 1, momentum: 0.7 } } }).config;
    expect(sgd).toMatchObject({ optimizer: 'sgd', lr: 1, beta1: 0.7 });
    expect(resolve({ scheduler: { type: 'WarmupLR', params: { warmup_max_lr: 2 } } }).config.lr).toBe(2);
    expect(resolve({ scheduler: { type: 'WarmupDecayLR', params: {} } }).config.schedule).toBe('linear');
  });

  it('takes over what is offloaded, and says what does not fit', () => {
    const zero = (optimizer: object | undefined, parameters?: object) => ({
      zero_optimization: { stage: 3, offload_optimizer: optimizer, offload_param: parameters },
    });
    const cpu = { device: 'cpu', pin_memory: true };
    const disk = { device: 'nvme', nvme_path: '/disk' };
    expect(resolve(zero(cpu)).config).toMatchObject({ zero: 3, offload: 'optimizer' });
    expect(resolve(zero(cpu, cpu)).config).toMatchObject({ offload: 'parameters' });
    expect(resolve(zero(disk, cpu)).config).toMatchObject({ offload: 'parameters', offloadFolder: '/disk' });
    expect(resolve(zero({ device: 'none' })).config.offload).toBe('none');
    const key = 'zero_optimization.offload_optimizer';
    expect(refusal(zero({ device: 'none' }, cpu))).toContain(`${key} in ds.json: expected device cpu or nvme beside`);
    expect(refusal(zero({ device: 'nvme' }))).toContain('expected device nvme and nvme_path, or neither; received no');
    expect(refusal(zero({ device: 'cpu', nvme_path: '/disk' }))).toContain('received nvme_path alone');
    expect(refusal(zero({ device: 'tape' }))).toContain('expected one of none, cpu, nvme, received "tape"');
    expect(refusal(zero(cpu, { device: 'nvme' }))).toContain('expected none or cpu, received "nvme"');
  });

  it('takes over fp16 and its loss scale', () => {
    const fp16 = { enabled: true, loss_scale: 0, initial_scale_power: 10, loss_scale_window: 50, hysteresis: 3 };
    expect(resolve({ fp16: { ...fp16, min_loss_scale: 4 } }).config).toMatchObject({
      ...{ precision: 'fp16', lossScale: 'dynamic', lossScaleInitial: 1024, lossScaleWindow: 50 },
      ...{ lossScaleHysteresis: 3, minLossScale: 4 },
    });
    expect(resolve({ fp16: { enabled: true, loss_scale: 128 } }).config.lossScale).toBe(128);
    expect(refusal({ fp16: { consecutive_hysteresis: true } })).toContain('expected false');
  });

  it('names every key that is not supported, and every value that is not', () => {
    const text = refusal({
      zero_optimization: { stage: 3, offload_param: { device: 'nvme' }, sub_group_size: 1e9, overlap_comm: false },
      optimizer: { type: 'OneBitAdam' },
      scheduler: { type: 'WarmupLR', params: { warmup_type: 'log' } },
      curriculum_learning: { enabled: true },
      bf16: { enabled: true },
      fp16: { enabled: true },
    });
    expect(text.split('\n')).toEqual([
      'zero_optimization.offload_param.device in ds.json: expected none or cpu, received "nvme"',
      'zero_optimization.sub_group_size in ds.json: not supported here; remove it',
      'zero_optimization.overlap_comm in ds.json: expected true, which is what is done here, received false',
      'optimizer.type in ds.json: expected one of AdamW, SGD, Lion, received "OneBitAdam"',
      'scheduler.params.warmup_type in ds.json: expected "linear", which is what is done here, received "log"',
      'curriculum_learning in ds.json: not supported here; remove it',
      'ds.json: expected fp16 or bf16 to be enabled, received both',
    ]);
    expect(refusal({ zero_optimization: { stage: 4 } })).toContain('zero in ds.json: expected a number of at most 3');
    expect(refusal('nonsense')).toContain('deepspeed ds.json: expected a JSON file');
    expect(refusal([])).toContain('expected an object');
    expect(refusal({ scheduler: { params: { total_num_steps: 5 } } }, { maxSteps: 6 })).toContain('6 (maxSteps)');
  });

  it.each([
    [{ train_batch_size: 24 }, {}, [12, 1]],
    [{ train_batch_size: 24, train_micro_batch_size_per_gpu: 3 }, {}, [3, 4]],
    [{ train_batch_size: 24, gradient_accumulation_steps: 4 }, {}, [3, 4]],
    [{ train_micro_batch_size_per_gpu: 3, gradient_accumulation_steps: 4 }, {}, [3, 4]],
    [{ train_micro_batch_size_per_gpu: 3 }, {}, [3, 1]],
    [{ train_batch_size: 24, train_micro_batch_size_per_gpu: 'auto' }, { microBatch: 4 }, [4, 3]],
  ])('solves the batch of %j with %j on two ranks', (json, flags, [micro, accum]) => {
    const { config } = resolve(json, { nproc: 2, ...flags });
    expect([config.microBatch, config.gradAccum]).toEqual([micro, accum]);
  });

  it('says where the batch does not fit', () => {
    const odd = { train_batch_size: 25, train_micro_batch_size_per_gpu: 3, gradient_accumulation_steps: 4 };
    expect(refusal(odd, { nproc: 2 })).toContain(
      'train_batch_size = train_micro_batch_size_per_gpu x gradient_accumulation_steps x ranks, received 25 for 3 x 4 x 2',
    );
    expect(refusal({ train_batch_size: 7 }, { nproc: 2 })).toContain(
      'train_batch_size = microBatch x gradAccum x ranks, received 7 for 3.5 x 1 x 2',
    );
    expect(refusal({ train_micro_batch_size_per_gpu: 3 }, { microBatch: 2 })).toBe(
      'microBatch: ds.json says 3, the program 2; leave one of them out',
    );
  });

  it('trains as the same flags do, and tells the batch', async () => {
    const tiny = await makeTiny();
    writeFileSync(
      file,
      JSON.stringify({ train_batch_size: 8, gradient_clipping: 0.3, optimizer: { params: { lr: 5e-3 } } }),
    );
    const given = { ...{ microBatch: undefined, lr: undefined }, maxSteps: 4 };
    const [a, b] = [
      await tune(tiny, { ...given, deepspeed: file }),
      await tune(tiny, { ...given, microBatch: 8, clip: 0.3, lr: 5e-3 }),
    ];
    expect(losses(a.out)).toEqual(losses(b.out));
    expect(a.summary.notes).toEqual(['global batch 8 = 8 (microBatch) x 1 (gradAccum) x 1 rank']);
    rmSync(tiny.folder, { recursive: true });
  });
});
