// Whole runs over two and four ranks, sharded in every way: the losses and the results are those of replication.
import { execFile } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { readSafetensors } from '../../lib/io/index.js';
import { losses, makeTiny, metricsOf, type Tiny } from './tiny.js';

const cli = fileURLToPath(new URL('../../dist/cli/index.js', import.meta.url));
let tiny: Tiny;
beforeAll(async () => {
  tiny = await makeTiny();
});
afterAll(() => rmSync(tiny.folder, { recursive: true }));

const run = promisify(execFile);
async function train(name: string, ...flags: string[]): Promise<string> {
  const out = join(tiny.folder, name);
  const given = ['--model', tiny.model, '--data', tiny.data, '--out', out, '--lr', '1e-2', '--clip', '0.5'];
  await run(process.execPath, [cli, 'finetune', ...given, '--max-steps', '5', '--micro-batch', '2', ...flags]);
  return out;
}

async function largestDifference(a: string, b: string): Promise<number> {
  const [x, y] = [await readSafetensors(a), await readSafetensors(b)];
  expect(x.names).toEqual(y.names);
  let most = 0;
  for (const name of x.names) {
    const [p, q] = [x.tensor(name).dataSync(), y.tensor(name).dataSync()] as [Float32Array, Float32Array];
    expect(p.length).toBe(q.length);
    for (let i = 0; i < p.length; i++) most = Math.max(most, Math.abs(p[i]! - q[i]!));
  }
  x.close();
  y.close();
  return most;
}

describe.each([
  ['full', 'model/model.safetensors', []],
  ['lora', 'adapter/adapter_model.safetensors', ['--grad-accum', '2']],
])('method %s', (method, file, more) => {
  it('gives the losses and the result of replication', async () => {
    const common = ['--method', method, '--nproc', '2', ...more];
    const expected = await train(`${method}-0`, ...common);
    for (const stage of ['1', '2', '3']) {
      const out = await train(`${method}-${stage}`, ...common, '--zero', stage, '--eval-split', '0');
      for (const [i, loss] of losses(out).entries()) {
        expect(Math.abs(loss / losses(expected)[i]! - 1), `stage ${stage}, step ${i + 1}`).toBeLessThan(1e-5);
      }
      // fp32: AdamW turns the rounding of near-zero gradients into whole steps of lr 1e-2; few of them in five steps.
      expect(await largestDifference(join(out, file), join(expected, file))).toBeLessThan(5e-2);
    }
  });
});

it('shards within pairs and replicates between them, in bf16 with gradients in fp32', async () => {
  const common = [
    '--method',
    'full',
    '--nproc',
    '4',
    '--precision',
    'bf16',
    '--reduce-dtype',
    'fp32',
    '--micro-batch',
    '1',
  ];
  const [a, b] = [await train('pairs', ...common, '--zero', '3', '--shard-ranks', '2'), await train('all', ...common)];
  expect(losses(a)).toHaveLength(5);
  // bf16 weights have 8 bits: two trajectories whose sums round otherwise are apart by a few of them.
  for (const [i, loss] of losses(a).entries()) expect(Math.abs(loss / losses(b)[i]! - 1)).toBeLessThan(2e-2);
  expect(metricsOf(a)[4]!.memoryPeak).toBeLessThan(metricsOf(b)[4]!.memoryPeak);
});

it('takes muon for the matrices, sharded or not, with float32 masters too', async () => {
  const common = ['--method', 'full', '--nproc', '2', '--optimizer', 'muon'];
  const expected = await train('muon-0', ...common);
  const plain = await train('muon-none', '--method', 'full', '--nproc', '2');
  expect(losses(expected)).not.toEqual(losses(plain));
  for (const more of [
    ['--zero', '2'],
    ['--zero', '3', '--precision', 'bf16'],
  ]) {
    const out = await train(`muon${more.join('')}`, ...common, ...more);
    // The iterations run in bfloat16 (8 bits), and so do the weights of the second run.
    for (const [i, loss] of losses(out).entries()) {
      expect(Math.abs(loss / losses(expected)[i]! - 1), `${more}, step ${i + 1}`).toBeLessThan(2e-2);
    }
  }
});

it('refuses what does not fit', async () => {
  const failed = async (...flags: string[]) =>
    (await train('refused', ...flags).catch((error) => error)).stderr as string;
  expect(await failed('--nproc', '2', '--zero', '1', '--optimizer', 'adafactor')).toContain(
    '--optimizer adafactor needs whole matrices, and --zero shards them: expected adamw, sgd, lion or muon',
  );
  expect(await failed('--nproc', '2', '--shard-ranks', '2')).toContain('--shard-ranks needs something to shard');
  expect(await failed('--nproc', '2', '--compress', 'int8')).toContain('--compress works on shards');
  expect(await failed('--nproc', '2', '--zero', '1', '--compress', 'topk', '--reduce-dtype', 'bf16')).toContain(
    '--compress packs float32: expected --reduce-dtype same',
  );
  expect(await failed('--nproc', '2', '--zero', '2', '--shard-ranks', '3')).toContain('expected a divisor of 2 ranks');
  expect(await failed('--zero', '4')).toContain('--zero: expected a number of at most 3');
});
