// Ten steps of every stage of sharding beside Python's DistributedDataParallel and fully_shard, from the same folder on the
// same rows: every parameter at the end, and the losses on the way.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { byteTokenizer } from '../../lib/data/index.js';
import { runRanks } from '../dist/ranks.js';
import { type HostTensor, numbers, python, readTensorFile } from './python.js';

const folder = mkdtempSync(join(tmpdir(), 'shardloop-oracle-zero-'));
const model = join(folder, 'model');
afterAll(() => rmSync(folder, { recursive: true }));

const settings = { lr: 1e-2, weightDecay: 0.1, clip: 0.5, steps: 10 };
const rows = Array.from({ length: 6 }, (_, r) => Array.from({ length: 12 }, (_, i) => (r * 37 + i * (r + 5)) % 258));

beforeAll(async () => {
  const tokens = { vocab_size: 258, bos_token_id: 256, eos_token_id: 256 };
  const rates = { resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 };
  await python('zero_run', {
    do: 'make',
    dir: model,
    config: { ...tokens, ...rates, n_layer: 3, n_head: 2, n_embd: 34, n_positions: 16 },
  });
  await byteTokenizer().save(model);
});

/** Trains by every stage; rank 0 writes each stage's parameters to `folder`. Reports the losses by stage. */
const OURS = (dtype: string, options: object = {}) => `
  const models = await import(${JSON.stringify(new URL('../../dist/models/index.js', import.meta.url).href)});
  const train = await import(${JSON.stringify(new URL('../../dist/train/index.js', import.meta.url).href)});
  const io = await import(${JSON.stringify(new URL('../../dist/io/index.js', import.meta.url).href)});
  const { ops, tensor } = core;
  const { lr, weightDecay, clip, steps } = ${JSON.stringify(settings)};
  const rows = ${JSON.stringify(rows)};
  const group = await dist.init({ timeoutSeconds: 40 });
  const own = rows.filter((_, i) => i % size === rank);
  const flat = (lists, shape) => tensor(BigInt64Array.from(lists.flat().map(BigInt)), { shape });
  const losses = {};
  for (const stage of [0, 1, 2, 3]) {
    const { model } = await models.loadModel(${JSON.stringify(model)}, { dtype: '${dtype}' });
    model.train().requiresGrad(true);
    const segments = nn.segmentsOf(model);
    const options = ${JSON.stringify(options)};
    const strategy = stage === 0 ? parallel.replicate(segments, group, options)
      : parallel.zero(segments, group, { stage, bucketBytes: 5000, ...options });
    const groups = optim.decayGroups(model.namedParameters(), { weightDecay })
      .map(({ params, weightDecay }) => ({ params: parallel.partsOf(strategy, params), weightDecay }));
    const optimizer = new optim.AdamW({ groups, lr });
    const context = { segments, strategy, group, optimizer, clip, checkpointing: 'none', precision: (fn) => fn(),
      parts: groups.flatMap(({ params }) => params.map(([, t]) => t)) };
    const make = () => ({
      input: model.inputs(flat(own, [own.length, 12])),
      lossOf: ([logits]) => core.scope(() => ops.div(nn.crossEntropy(
        ops.slice(logits, { dim: 1, start: 0, end: 11 }), flat(own.map((r) => r.slice(1)), [own.length, 11]), { reduction: 'sum' }), rows.length * 11)),
    });
    losses[stage] = [];
    for (let i = 0; i < steps; i++) losses[stage].push((await train.trainStep(context, [make])).loss);
    await strategy.whole(async () => {
      if (rank === 0) await io.writeSafetensors(process.env.OUT + stage, new Map(model.namedParameters()));
    });
  }
  report({ losses });
  await group.destroy();`;

it.each([
  [2, 'float64', 'ddp'],
  [3, 'float64', 'fully_shard'],
  [2, 'float32', 'fully_shard'],
])('on %i ranks in %s: equal to %s', async (size, dtype, way) => {
  const theirs = await python<number[]>('zero_run', { do: 'train', way, dir: model, size, dtype, rows, ...settings });
  const out = join(folder, `${size}-${dtype}-`);
  const runs = await runRanks(size, OURS(dtype), { OUT: out });
  expect(runs.map(({ err }) => err).join('')).toBe('');
  const losses = runs[0]!.reports[0]!.losses as Record<string, number[]>;
  for (const stage of ['0', '1', '2', '3']) {
    for (const [i, loss] of losses[stage]!.entries()) {
      // fp32: AdamW turns the rounding of near-zero gradients into whole steps, so only the losses are held together.
      const bound = dtype === 'float64' ? 1e-9 : 1e-5;
      expect(Math.abs(loss / theirs.value[i]! - 1), `stage ${stage}, loss of step ${i + 1}`).toBeLessThan(bound);
    }
    if (dtype === 'float64') expectEqual(out + stage, theirs.tensors, `stage ${stage}`);
  }
});

it('with gradients that travel in bfloat16: equal to DDP with bf16_compress_hook', async () => {
  // The gradients are float64 and agree before they are rounded; two ranks' sum has one rounding, and no other order.
  const args = { do: 'train', way: 'ddp', hook: 'bf16', dir: model, size: 2, dtype: 'float64', rows, ...settings };
  const theirs = await python<number[]>('zero_run', args);
  const out = join(folder, 'bf16-');
  const runs = await runRanks(2, OURS('float64', { reduceDtype: 'bfloat16' }), { OUT: out });
  expect(runs.map(({ err }) => err).join('')).toBe('');
  for (const stage of ['0', '1', '2', '3']) expectEqual(out + stage, theirs.tensors, `stage ${stage}`);
});

function expectEqual(file: string, theirs: Map<string, HostTensor>, where: string): void {
  const ours = readTensorFile(file);
  for (const [name, expected] of theirs) {
    const [a, b] = [numbers(ours.get(name)!), numbers(expected)];
    const apart = a.reduce((most, value, i) => Math.max(most, Math.abs(value - b[i]!)), 0);
    expect(apart, `${where}, ${name}`).toBeLessThan(1e-9);
  }
}
