// Training on a CUDA device: the losses of the CPU, activation checkpointing with dropout, and a group of one over NCCL.
// Run by scripts/device-check.mjs.
import { expect, it } from 'vitest';
import { manualSeed, ops, scope, type Tensor, tensor } from '../../lib/core/index.js';
import { createGroup, type Group } from '../../lib/dist/index.js';
import { GPT2LMHeadModel } from '../../lib/models/index.js';
import { type Carry, crossEntropy, type Segment, segmentsOf } from '../../lib/nn/index.js';
import { AdamW } from '../../lib/optim/index.js';
import { alone, type Checkpointing, partsOf, type Strategy, zero } from '../../lib/parallel/index.js';
import { trainStep } from '../../lib/train/step.js';

const V = 61;

async function losses(
  device: string,
  dropout: number,
  checkpointing: Checkpointing,
  spread: (segments: Segment[], group: Group) => Strategy = () => alone,
): Promise<number[]> {
  manualSeed(5);
  const rates = { resid_pdrop: dropout, embd_pdrop: dropout, attn_pdrop: 0 };
  const model = new GPT2LMHeadModel({ vocab_size: V, n_positions: 32, n_embd: 64, n_layer: 3, n_head: 4, ...rates });
  model.to({ device });
  const data = Array.from({ length: 64 }, (_, i) => BigInt((i * i + 3 * i) % V));
  const labels = tensor(data, { shape: [64], device });
  const segments = segmentsOf(model);
  const group = await createGroup({ rank: 0, size: 1, store: { inProcess: 'gpu' } });
  const strategy = spread(segments, group);
  const parts = partsOf(strategy, model.namedParameters());
  const context = {
    ...{ segments, group, strategy, optimizer: new AdamW({ params: parts, lr: 1e-3 }) },
    ...{ parts: parts.map(([, part]) => part), clip: 1, checkpointing, precision: <T>(fn: () => T) => fn() },
  };
  const lossOf = ([logits]: Carry): Tensor => scope(() => crossEntropy(ops.reshape(logits!, [64, V]), labels));
  const found: number[] = [];
  manualSeed(9);
  for (let step = 0; step < 10; step++) {
    const make = () => ({ input: model.inputs(tensor(data, { shape: [2, 32], device })), lossOf });
    found.push((await trainStep(context, [make])).loss);
  }
  return found;
}

it('gives the CPU’s losses', async () => {
  const [cpu, cuda] = [await losses('cpu', 0, 'none'), await losses('cuda:0', 0, 'none')];
  // fp32 on both; AdamW turns the rounding of small gradients into steps, so the curves drift by some 1e-4 in ten steps.
  for (const [i, loss] of cuda.entries()) expect(Math.abs(loss - cpu[i]!)).toBeLessThanOrEqual(2e-3 * cpu[i]!);
});

it('replays dropout under activation checkpointing', async () => {
  const whole = await losses('cuda:0', 0.2, 'none');
  const again = await losses('cuda:0', 0.2, 'full');
  for (const [i, loss] of again.entries()) expect(Math.abs(loss - whole[i]!)).toBeLessThanOrEqual(1e-4 * whole[i]!);
});

it.each([
  [1, 'optimizer'],
  [3, 'optimizer'],
  [3, 'parameters'],
] as const)('trains with stage %i and the %s in host memory', async (stage, offload) => {
  const here = await losses('cuda:0', 0, 'none');
  const parts: string[] = [];
  const there = await losses('cuda:0', 0, 'none', (segments, group) => {
    const strategy = zero(segments, group, { stage, offload });
    parts.push(
      ...new Set(
        segments.flatMap((s) => s.modules.flatMap((m) => m.parameters())).map((p) => strategy.part(p).tensor.device),
      ),
    );
    return strategy;
  });
  expect(parts).toEqual(['cpu']);
  // The same rule in fp32 on another device.
  for (const [i, loss] of there.entries()) expect(Math.abs(loss - here[i]!)).toBeLessThanOrEqual(1e-4 * here[i]!);
});
