// Checkpoints of sharded runs, as users make them: every rank writes its part, and any number of ranks under any stage
// goes on from them.
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { ops } from '../../lib/core/index.js';
import { readSafetensors } from '../../lib/io/index.js';
import { makeTiny, metricsOf, type Tiny } from '../train/tiny.js';
import { shardloop } from './run.js';

let tiny: Tiny;
let runs = 0;
beforeAll(async () => {
  tiny = await makeTiny();
});
afterAll(() => rmSync(tiny.folder, { recursive: true }));

/** 22 records in batches of 12, whatever the ranks: 2 steps an epoch, 6 in all. */
const SHAPES = {
  alone: '--micro-batch 12',
  'two ranks, replicated': '--nproc 2 --micro-batch 6',
  'two ranks, stage 3': '--nproc 2 --zero 3 --micro-batch 6',
  'three ranks, stage 1': '--nproc 3 --zero 1 --micro-batch 4',
  'four ranks, stage 2, hybrid': '--nproc 4 --zero 2 --shard-ranks 2 --micro-batch 3',
  'four ranks, stage 3, hybrid': '--nproc 4 --zero 3 --shard-ranks 2 --micro-batch 3',
};
type Shape = keyof typeof SHAPES;
const COMMON = '--epochs 3 --lr 1e-3 --threads 1 --save-total-limit 9';

async function tune(shape: Shape, more: string, out = join(tiny.folder, `run-${runs++}`)): Promise<string> {
  const flags = `${COMMON} ${SHAPES[shape]} ${more}`.split(' ');
  const { code, stderr } = await shardloop([
    ...['finetune', '--model', tiny.model, '--data', tiny.data, '--out', out, ...flags],
  ]);
  expect(code, stderr).toBe(0);
  return out;
}

const curve = (out: string) => metricsOf(out).map(({ step, tokens, loss }) => ({ step, tokens, loss }));

type Pair = [from: Shape, to: Shape];
const RECIPES: [name: string, method: string, tolerance: number, pairs: Pair[], alike: Shape[]][] = [
  [
    'all weights in fp32',
    '--method full',
    1e-5,
    [
      ['two ranks, stage 3', 'alone'],
      ['two ranks, stage 3', 'four ranks, stage 3, hybrid'],
      ['four ranks, stage 2, hybrid', 'three ranks, stage 1'],
      ['two ranks, replicated', 'two ranks, stage 3'],
    ],
    ['two ranks, stage 3', 'four ranks, stage 2, hybrid'],
  ],
  [
    'all weights in bf16 with fp32 masters',
    '--method full --precision bf16',
    // Products and gradients have 8 bits, so that sums in another order show; the masters keep them from adding up.
    2e-3,
    [['two ranks, stage 3', 'three ranks, stage 1']],
    ['two ranks, stage 3'],
  ],
  ['an adapter', '--method lora --optimizer lion', 1e-4, [['two ranks, stage 3', 'alone']], []],
];

describe.each(RECIPES)('%s', (name, method, tolerance, pairs, alike) => {
  const saved = new Map<Shape, Promise<string>>();
  const save = (shape: Shape) => {
    const known = saved.get(shape) ?? tune(shape, `${method} --save-steps 2`);
    saved.set(shape, known);
    return known;
  };

  it.each(pairs)('saved by %s, goes on as %s', async (from, to) => {
    const source = await save(from);
    const resumed = await tune(to, `${method} --resume ${join(source, 'checkpoint-2')}`);
    const [expected, received] = [curve(source).slice(2), curve(resumed)];
    expect(received.map(({ step, tokens }) => [step, tokens])).toEqual(
      expected.map(({ step, tokens }) => [step, tokens]), // no record is lost or repeated
    );
    for (const [i, { step, loss }] of received.entries()) {
      expect(Math.abs(loss / expected[i]!.loss - 1), `step ${step}`).toBeLessThan(tolerance);
    }
  });

  it.each(alike)('saved by %s and resumed alike, is bit-identical', async (shape) => {
    const source = await save(shape);
    const resumed = await tune(shape, `${method} --resume ${join(source, 'checkpoint-2')}`);
    expect(curve(resumed)).toEqual(curve(source).slice(2));
  });

  it.runIf(name === 'all weights in fp32')('every rank of the first replica writes its own part alone', async () => {
    const parts = (out: string) => {
      const { files } = JSON.parse(readFileSync(join(out, 'checkpoint-2', 'manifest.json'), 'utf8'));
      return Object.keys(files).filter((name) => name.startsWith('part-'));
    };
    const size = (out: string) => {
      const { files } = JSON.parse(readFileSync(join(out, 'checkpoint-2', 'manifest.json'), 'utf8'));
      return parts(out).map((name) => files[name].bytes as number);
    };
    expect(parts(await save('two ranks, replicated'))).toEqual(['part-00000.safetensors']);
    expect(parts(await save('two ranks, stage 3'))).toEqual(['part-00000.safetensors', 'part-00001.safetensors']);
    expect(parts(await save('four ranks, stage 2, hybrid'))).toEqual([
      'part-00000.safetensors',
      'part-00001.safetensors',
    ]);
    const [whole] = size(await save('two ranks, replicated'));
    for (const part of size(await save('two ranks, stage 3'))) expect(part).toBeLessThan(0.6 * whole!);
    expect(readdirSync(await save('two ranks, stage 3'))).toContain('latest');
  });
});

it('an adapter that a sharded run writes is whole', async () => {
  const adapter = async (shape: Shape) => {
    const out = await tune(shape, '--method lora');
    const file = await readSafetensors(join(out, 'adapter', 'adapter_model.safetensors'));
    return new Map(file.names.map((name) => [name, file.tensor(name)]));
  };
  const [expected, received] = [await adapter('alone'), await adapter('two ranks, stage 3')];
  expect([...received.keys()]).toEqual([...expected.keys()]);
  for (const [name, t] of expected) {
    expect(received.get(name)!.shape).toEqual(t.shape);
    const apart = ops.max(ops.abs(ops.sub(received.get(name)!, t))).itemSync();
    expect(apart, name).toBeLessThan(1e-4);
  }
});

describe('resuming', () => {
  it('at another number of ranks says which batch fits', async () => {
    const source = await tune('two ranks, stage 3', '--method full --save-steps 2');
    const run = (flags: string) =>
      shardloop([
        ...['finetune', '--model', tiny.model, '--data', tiny.data, '--out', join(tiny.folder, `run-${runs++}`)],
        ...`--epochs 3 --method full --lr 1e-3 --resume ${join(source, 'checkpoint-2')} ${flags}`.split(' '),
      ]);
    const other = await run('--nproc 4 --zero 1 --micro-batch 6');
    expect(other.code).toBe(1);
    expect(other.stderr).toContain(
      'expected --micro-batch x --grad-accum x ranks = 12 records a step, with which it was made; received 6 x 1 x 4 = 24. With 4 ranks take --micro-batch x --grad-accum = 3',
    );
  });
});
