// The forecast of a run with offload: what stays on the device, what the host and files hold, against real steps. On the CPU
// device and host are the same memory, so such a run takes what the plan says of both together.
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, describe, expect, it } from 'vitest';
import { memory } from '../../lib/core/index.js';
import type { PlanConfig } from '../../lib/train/config.js';
import { forecast, forecastTable } from '../../lib/train/forecast.js';
import { fillsShards } from '../../lib/train/spread.js';
import type { RunSummary } from '../../lib/train/summary.js';
import { runRanks } from '../dist/ranks.js';

const MIB = 2 ** 20;
/** What may lie between plan and run: little blocks, and in bf16 what products widen to float32 on their way. */
const slack = (precision: string, kind: string) => (precision === 'bf16' && kind === 'peak' ? 8 * MIB : MIB / 4);
const folder = mkdtempSync(join(tmpdir(), 'shardloop-forecast-'));
afterAll(() => rmSync(folder, { recursive: true }));

const shape = { layers: 3, heads: 4, width: 256, vocabulary: 258, seqLen: 128, microBatch: 4 } as const;
const plan = (more: Partial<PlanConfig>) => forecast({ ...shape, ...more });

describe('offload', () => {
  it('leaves on the device what the documentation says, and puts parts, gradients and states on the host', async () => {
    for (const world of [1, 4]) {
      const padding = (64 * 16 * 16) / world;
      const { parameters: psi, memory: plain } = await plan({ world, zero: 3 });
      for (const options of [
        { zero: 1, offload: 'optimizer' },
        { zero: 2, offload: 'optimizer' },
        { zero: 3, offload: 'optimizer' },
        { zero: 3, offload: 'parameters' },
      ] as const) {
        const { memory: device, host, files } = await plan({ ...options, world });
        const what = JSON.stringify({ ...options, world });
        const part = (4 * psi) / world;
        for (const [kind, copies] of [
          ['parameters', 1],
          ['optimizer', 2],
          ['gradients', 1],
        ] as const) {
          expect(host[kind], what).toBeGreaterThanOrEqual(copies * part);
          expect(host[kind], what).toBeLessThan(copies * (part + padding));
        }
        expect(host.peak, what).toBe(host.parameters + host.optimizer + host.gradients);
        expect(device.optimizer, what).toBe(0);
        const held = options.zero < 3 ? 4 * psi : options.offload === 'optimizer' ? part : 0;
        expect(device.parameters, what).toBeGreaterThanOrEqual(held);
        expect(device.parameters, what).toBeLessThan(held + 4 * padding);
        expect(files).toBe(0);
        if (options.zero === 3 && world > 1) expect(device.peak, what).toBeLessThan(plain.peak);
      }
    }
  });

  it.each([1, 2])('is what steps take, on %i ranks', async (ranks) => {
    const cases: Partial<PlanConfig>[] = [
      { zero: 1, offload: 'optimizer', gradAccum: 2 },
      { zero: 2, offload: 'optimizer', precision: 'bf16' },
      { zero: 3, offload: 'optimizer' },
      { zero: 3, offload: 'parameters' },
      { zero: 3, offload: 'parameters', precision: 'bf16', optimizer: 'sgd' },
    ];
    const [first, ...others] = await runRanks(ranks, STEPS.replace('CASES', JSON.stringify(cases)));
    for (const { err } of [first!, ...others]) expect(err).toBe('');
    const real = first!.reports as unknown as NonNullable<RunSummary['memory']>[];
    expect(real).toHaveLength(cases.length);
    for (const [i, options] of cases.entries()) {
      const told = await plan({ ...options, world: ranks });
      const precision = options.precision ?? 'fp32';
      for (const kind of ['parameters', 'optimizer', 'gradients', 'peak'] as const) {
        const both = told.memory[kind] + told.host[kind];
        const apart = Math.abs(real[i]![kind] - both);
        expect(apart, `${JSON.stringify(options)} ${kind}`).toBeLessThan(0.03 * both + slack(precision, kind));
      }
    }
  });

  it('makes the model of one rank without memory where its parameters are to be on the host', async () => {
    expect(fillsShards({ zero: 3, offload: 'parameters' }, { size: 1 })).toBe(true);
    expect(fillsShards({ zero: 3, offload: 'optimizer' }, { size: 1 })).toBe(false);
    const deep = { layers: 24, microBatch: 1, seqLen: 8, zero: 3, bucketMb: 1 } as const;
    for (const options of [{ offload: 'parameters' }, { world: 1024 }] as const) {
      const { parameters, memory: device } = await plan({ ...deep, ...options });
      expect(device.peak, JSON.stringify(options)).toBeLessThan((4 * parameters) / 4);
    }
  });

  it('is refused where there is nothing to offload', async () => {
    await expect(plan({ offload: 'optimizer' })).rejects.toThrow('offload works on shards: expected zero 1, 2 or 3');
    await expect(plan({ offload: 'parameters', zero: 2 })).rejects.toThrow('offload parameters: expected zero 3');
  });

  it('leaves nothing behind', async () => {
    const kinds = ['meta', 'meta:host', 'meta:files'] as const;
    const held = () => kinds.map((kind) => memory.allocatorStats(kind).allocated);
    const before = held();
    await plan({ zero: 3, world: 2, offload: 'parameters', offloadFolder: join(folder, 'none') });
    expect(held()).toEqual(before);
  });
});

describe('offloadFolder', () => {
  it.each([
    ['fp32', {}, 8],
    ['bf16', { precision: 'bf16' }, 12],
    ['sgd', { optimizer: 'sgd' }, 4],
    ['without states', { optimizer: 'sgd', beta1: 0 }, 0],
  ] as const)('counts the bytes of files and makes none: %s', async (_, options, bytes) => {
    const before = readdirSync(folder);
    const offloadFolder = join(folder, 'states');
    const [inMemory, inFiles] = [await plan(options), await plan({ ...options, offloadFolder })];
    expect(existsSync(offloadFolder)).toBe(false);
    expect(readdirSync(folder)).toEqual(before);
    expect(inFiles.files).toBe(bytes * inFiles.parameters);
    expect(inMemory.files).toBe(0);
    expect(inFiles.memory.optimizer).toBe(0);
    expect(inFiles.host.peak).toBe(0); // a run on the CPU: all but the files is in the memory of its device
    const sharded = { ...options, zero: 2, world: 4, offload: 'optimizer', offloadFolder } as const;
    const { files, host } = await plan(sharded);
    expect(files).toBeGreaterThanOrEqual((bytes * inFiles.parameters) / 4);
    expect(files).toBeLessThan((bytes * (inFiles.parameters + 64 * 64)) / 4 + 1);
    expect(host.optimizer).toBe(0);
    expect(host.parameters).toBeGreaterThan(0);
  });

  it('is what a run takes', async () => {
    const data = join(folder, 'text.txt');
    writeFileSync(data, 'The quick brown fox jumps over the lazy dog. '.repeat(400));
    const cli = fileURLToPath(new URL('../../dist/cli/index.js', import.meta.url));
    const run = async (...args: string[]) =>
      JSON.parse((await promisify(execFile)(process.execPath, [cli, ...args, '--json'])).stdout);
    const sizes = { layers: 3, heads: 4, width: 256, 'seq-len': 128, 'micro-batch': 4, precision: 'bf16', zero: 2 };
    const common = Object.entries(sizes).flatMap(([name, value]) => [`--${name}`, String(value)]);
    const place = ['--offload-folder', join(folder, 'real')];
    const outside = ['--data', data, '--out', join(folder, 'out'), '--max-steps', '3', '--nproc', '2'];
    const { memory: real }: RunSummary = await run('pretrain', ...outside, ...common, ...place);
    const told = await run('plan', '--world', '2', '--vocabulary', '258', ...common, ...place);
    expect(told.files).toBeGreaterThanOrEqual((12 * told.parameters) / 2);
    for (const kind of ['parameters', 'gradients', 'peak'] as const) {
      const apart = Math.abs(real![kind] - told.memory[kind]);
      expect(apart, kind).toBeLessThan(0.03 * told.memory[kind] + slack('bf16', kind));
    }
  });
});

it('tells people of host memory and files where there are any', async () => {
  const text = async (more: Partial<PlanConfig>) => forecastTable(await plan(more));
  expect(await text({ zero: 1, world: 2 })).not.toMatch(/host|files/);
  const offloaded = await text({ zero: 1, world: 2, offload: 'optimizer', offloadFolder: join(folder, 'none') });
  for (const kind of ['parameters', 'optimizer', 'gradients', 'peak'])
    expect(offloaded).toMatch(new RegExp(`${kind} in host memory a rank`));
  expect(offloaded).toMatch(/optimizer in files a rank +│ +9\.4 MiB/);
});

/** Steps of a run of the same shape by hand, since the commands refuse offload without CUDA; each case reports its ledger. */
const STEPS = `
const from = (path) => import('${new URL('../../dist/', import.meta.url).href}' + path);
const { GPT2LMHeadModel } = await from('models/index.js');
const { MemoryLedger } = await from('train/memory-ledger.js');
const { fillsShards, spread } = await from('train/spread.js');
const { makeOptimizer } = await from('train/optimizer.js');
const { trainStep } = await from('train/step.js');
const group = await dist.init({ timeoutSeconds: 40 });
const rates = { lr: 1e-3, weightDecay: 0, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, reduceDtype: 'same', compress: 'none' };
const shape = { n_layer: 3, n_head: 4, n_embd: 256, vocab_size: 258, n_positions: 128, resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 };
for (const { gradAccum = 1, ...options } of CASES) {
  const config = { ...rates, optimizer: 'adamw', precision: 'fp32', ...options };
  const ledger = new MemoryLedger('cpu');
  const dtype = config.precision === 'bf16' ? 'bfloat16' : 'float32';
  const device = fillsShards(config, group) ? 'meta' : 'cpu';
  const model = new GPT2LMHeadModel(shape, { dtype, device }).train();
  model.requiresGrad(true);
  const segments = nn.segmentsOf(model);
  const fill = device === 'meta' ? (t, into) => core.ops.normal_(into, { std: 0.02 }) : undefined;
  const { strategy, close } = await spread({ config, group }, segments, { fill });
  ledger.book('parameters');
  const named = model.namedParameters();
  const optimizer = makeOptimizer(named, config, strategy);
  optimizer.prepare();
  ledger.book('optimizer');
  const parts = parallel.partsOf(strategy, named).map(([, part]) => part);
  const booked = { ...strategy, finish: () => strategy.finish().then(() => ledger.book('gradients')) };
  const context = { segments, group, optimizer, parts, strategy: booked, clip: 1, checkpointing: 'none', precision: (fn) => fn() };
  const batch = () => {
    const ids = core.ops.randint(258, [4, 128], { dtype: 'int64' });
    return { input: model.inputs(ids, { targets: ids, divisor: 512 * size * gradAccum }), lossOf: ([loss]) => loss };
  };
  for (let i = 0; i < 3; i++) await trainStep(context, Array(gradAccum).fill(batch));
  report(ledger.use());
  optimizer.dispose();
  await close();
  model.dispose();
}
await group.destroy();
`;
