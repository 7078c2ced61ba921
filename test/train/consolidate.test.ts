// A checkpoint to a model or adapter folder: the same bytes as the run's own result, from any format, in bounded memory.
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { consolidate } from '../../lib/train/index.js';
import { inProcess, shardloop } from '../cli/run.js';
import { runRanks } from '../dist/ranks.js';
import { toFormat1 } from '../io/older-formats.js';
import { makeTiny, type Tiny, tune } from './tiny.js';

let tiny: Tiny;
let runs = 0;
beforeAll(async () => {
  tiny = await makeTiny();
});
afterAll(() => rmSync(tiny.folder, { recursive: true }));
const fresh = () => join(tiny.folder, `consolidated-${runs++}`);

/** Every file of a folder. */
const content = (dir: string) =>
  Object.fromEntries(readdirSync(dir).map((name) => [name, readFileSync(join(dir, name))]));

/** Without warm-up and decay a run of 3 steps ends where one of 5 has its third. */
const ALIKE = { schedule: 'constant', warmupSteps: 0, epochs: 3 } as const;

describe('consolidate', () => {
  it.each([
    ['model', { method: 'full', lr: 1e-3 }],
    ['model', { method: 'full', precision: 'bf16', lr: 1e-3 }],
    ['adapter', { method: 'lora' }],
  ] as const)('gives the %s that the run would have written: %o', async (kind, more) => {
    const { summary } = await tune(tiny, { ...ALIKE, ...more, maxSteps: 3 });
    const { out: longer } = await tune(tiny, { ...ALIKE, ...more, maxSteps: 5, saveSteps: 3 });
    const out = fresh();
    const tensors = expect.any(Number);
    expect(await consolidate({ checkpoint: join(longer, 'latest'), out })).toEqual({ out, kind, step: 3, tensors });
    expect(content(out)).toEqual(content(summary.result!));
    const again = { checkpoint: join(longer, 'latest'), out };
    await expect(consolidate(again)).rejects.toThrow(/holds a result already .* or replace it with overwrite/);
    expect(await consolidate({ ...again, overwrite: true })).toMatchObject({ kind });
    expect(content(out)).toEqual(content(summary.result!));
  });

  it('joins the parts of several ranks', async () => {
    const out = fresh();
    const common = ['finetune', '--model', tiny.model, '--data', tiny.data, '--method', 'full', '--threads', '1'];
    const flags = '--lr 1e-3 --nproc 3 --zero 3 --micro-batch 2 --epochs 2 --save-steps 4 --schedule constant'.split(
      ' ',
    );
    expect((await shardloop([...common, '--out', out, ...flags])).code).toBe(0);
    const short = fresh();
    const cut = [...flags, '--max-steps', '4'];
    expect((await shardloop([...common, '--out', short, ...cut])).code).toBe(0);
    const { code, stdout } = await inProcess('consolidate', join(out, 'checkpoint-4'), join(out, 'whole'), '--json');
    expect(code).toBe(0);
    expect(JSON.parse(stdout)).toMatchObject({ kind: 'model', step: 4 });
    expect(content(join(out, 'whole'))).toEqual(content(join(short, 'model')));
  });

  it('takes a base model for an adapter, and a configuration for format 1', async () => {
    const adapter = await tune(tiny, { ...ALIKE, maxSteps: 3, saveSteps: 2 });
    const copy = join(tiny.folder, 'copy');
    cpSync(tiny.model, copy, { recursive: true });
    const out = fresh();
    await consolidate({ checkpoint: join(adapter.out, 'latest'), out, model: copy });
    expect(JSON.parse(readFileSync(join(out, 'adapter_config.json'), 'utf8')).base_model_name_or_path).toBe(copy);

    const full = await tune(tiny, { ...ALIKE, method: 'full', lr: 1e-3, maxSteps: 3, saveSteps: 2 });
    const expected = fresh();
    await consolidate({ checkpoint: join(full.out, 'latest'), out: expected });
    for (const run of [adapter, full]) await toFormat1(join(run.out, 'checkpoint-2'));
    const old = fresh();
    await expect(consolidate({ checkpoint: join(full.out, 'latest'), out: old })).rejects.toThrow(/name model/);
    await expect(consolidate({ checkpoint: join(adapter.out, 'latest'), out: old })).rejects.toThrow(/resume it/);
    expect(existsSync(old)).toBe(false);
    await consolidate({ checkpoint: join(full.out, 'latest'), out: old, model: tiny.model });
    expect(content(old)['model.safetensors']).toEqual(content(expected)['model.safetensors']);
    const resumed = await tune(tiny, {
      ...ALIKE,
      method: 'full',
      lr: 1e-3,
      maxSteps: 3,
      resume: join(full.out, 'latest'),
    });
    expect(resumed.summary.loss).toBe(full.summary.loss); // a run goes on from format 1, too
  });

  it('refuses what it would overwrite, and a folder of other things', async () => {
    const { out } = await tune(tiny, { ...ALIKE, maxSteps: 3, saveSteps: 2 });
    const checkpoint = join(out, 'checkpoint-2');
    const refused = (options: Parameters<typeof consolidate>[0]) =>
      expect(consolidate(options)).rejects.toMatchObject({ code: 'BAD_CONFIG' });
    await refused({ checkpoint, out: checkpoint });
    await refused({ checkpoint, out: tiny.model });
    await refused({ checkpoint, out: join(checkpoint, 'result'), overwrite: true });
    await refused({ checkpoint, out: join(checkpoint, 'new', 'er') });
    const other = fresh();
    mkdirSync(other);
    writeFileSync(join(other, 'notes.txt'), '');
    await refused({ checkpoint, out: other });
    await refused({ checkpoint, out: other, overwrite: true });
    await refused({ checkpoint: join(out, 'none'), out: fresh() });
    expect((await inProcess('consolidate', join(out, 'none'), fresh())).code).toBe(2);
    const to = fresh();
    const codes = [];
    for (const flags of [[], [], ['--overwrite']])
      codes.push((await inProcess('consolidate', checkpoint, to, ...flags)).code);
    expect(codes).toEqual([0, 2, 0]);
  });

  it('needs memory for pieces, not for the model', async () => {
    const dist = (name: string) => new URL(`../../dist/${name}/index.js`, import.meta.url).href;
    const [rank] = await runRanks(
      1,
      `import { readFileSync, writeFileSync } from 'node:fs';
       const { GPT2LMHeadModel, describeModel } = await import('${dist('models')}');
       const { beginCheckpoint, planPart, writePart, commitCheckpoint } = await import('${dist('io')}');
       const { consolidate } = await import('${dist('train')}');
       const status = (key) => Number(new RegExp(key + ':\\\\s+(\\\\d+)').exec(readFileSync('/proc/self/status', 'utf8'))[1]) / 1024;
       const model = new GPT2LMHeadModel({ n_layer: 2, n_head: 2, n_embd: 512, n_positions: 64, vocab_size: 50000 });
       const dir = ${JSON.stringify(join(tiny.folder, 'large'))};
       const pending = await beginCheckpoint(dir, 1);
       const groups = [new Map(), new Map()]; // every parameter cut in two
       let bytes = 0;
       for (const [name, t] of model.namedParameters()) {
         const flat = core.noGrad(() => core.ops.view(core.ops.detach(t), [-1]));
         const half = Math.floor(t.numel / 2);
         bytes += t.numel * 4;
         for (const [i, start, end] of [[0, 0, half], [1, half, t.numel]])
           groups[i].set(name, { tensor: core.ops.slice(flat, { dim: 0, start, end }), shape: t.shape, start });
       }
       const receipts = [];
       for (const [i, model] of groups.entries()) receipts.push(await writePart(pending.path, planPart(i, { model })));
       await commitCheckpoint(pending, { step: 1, receipts, state: null, describe: (folder) => describeModel(model, folder) });
       for (const group of groups) for (const { tensor } of group.values()) tensor.dispose();
       model.dispose();
       const before = status('VmRSS');
       writeFileSync('/proc/self/clear_refs', '5'); // the peak begins anew
       await consolidate({ checkpoint: dir + '/checkpoint-1', out: dir + '/whole' });
       report({ model: bytes / 2 ** 20, before, peak: status('VmHWM') });`,
    );
    expect(rank!.err).toBe('');
    const { model, before, peak } = rank!.reports[0] as Record<string, number>;
    expect(model).toBeGreaterThan(110);
    expect(peak! - before!).toBeLessThan(0.5 * model!); // pieces of 16 MB, a few at a time
  });
});
