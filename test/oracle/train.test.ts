// Whole runs against Python: a folder that transformers made, tuned here over two ranks and there; torchrun as launcher.
import { execFile } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { byteTokenizer } from '../../lib/data/index.js';
import { readMetrics } from '../../lib/train/metrics.js';
import { python, pythonPath } from './python.js';

const run = promisify(execFile);
const program = fileURLToPath(new URL('../../dist/cli/index.js', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'shardloop-oracle-train-'));
const model = join(folder, 'model');
const data = join(folder, 'records.json');
afterAll(() => rmSync(folder, { recursive: true }));

beforeAll(async () => {
  const tokens = { vocab_size: 258, bos_token_id: 256, eos_token_id: 256 };
  const dropouts = { resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 };
  const config = { ...tokens, ...dropouts, n_layer: 2, n_head: 2, n_embd: 32, n_positions: 64 };
  await python('train_run', { do: 'make', dir: model, config });
  await byteTokenizer().save(model);
  const records = Array.from({ length: 7 }, (_, i) => ({ prompt: `Ask ${i}`, response: 'yes '.repeat(i + 1) + i }));
  writeFileSync(data, JSON.stringify(records));
});

const settings = { lr: 3e-3, weightDecay: 0.1, clip: 0.5, steps: 20 };
const flags = (out: string) => [
  ...['finetune', '--model', model, '--data', data, '--out', out, '--method', 'full', '--schedule', 'constant'],
  ...['--warmup-steps', '0', '--lr', `${settings.lr}`, '--weight-decay', `${settings.weightDecay}`],
  ...['--clip', `${settings.clip}`, '--epochs', `${settings.steps}`, '--micro-batch', '2', '--grad-accum', '2'],
];

it('tunes over two ranks with the losses and gradient norms that transformers and torch have', async () => {
  const out = join(folder, 'two-ranks');
  await run(process.execPath, [program, ...flags(out), '--nproc', '2']);
  const own = readMetrics(join(out, 'metrics.jsonl'));
  const args = { do: 'train', dir: model, data, ...settings };
  const { value } = await python<{ losses: number[]; norms: number[] }>('train_run', args);
  expect(own).toHaveLength(settings.steps);
  for (const [i, { loss, gradNorm }] of own.entries()) {
    expect(Math.abs(loss / value.losses[i]! - 1), `loss of step ${i + 1}`).toBeLessThan(1e-4);
    expect(Math.abs(gradNorm / value.norms[i]! - 1), `norm of step ${i + 1}`).toBeLessThan(1e-3);
  }
});

it('joins the ranks that torchrun starts', async () => {
  const out = join(folder, 'torchrun');
  const torchrun = join(dirname(pythonPath()), 'torchrun');
  const launcher = ['--no-python', '--nproc-per-node', '2', '--standalone'];
  const env = { ...process.env, SHARDLOOP_NPROC: '7' }; // the launcher's number counts
  await run(torchrun, [...launcher, process.execPath, program, ...flags(out)], { env });
  const losses = (name: string) => readMetrics(join(folder, name, 'metrics.jsonl')).map((m) => m.loss);
  expect(losses('torchrun')).toEqual(losses('two-ranks'));
  expect(readdirSync(join(out, 'model'))).toContain('model.safetensors');
});
