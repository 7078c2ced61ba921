// Tuning in this process: results, options that must have an effect, resume, stop, divergence.
import { existsSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { stats } from '../../lib/core/memory.js';
import { DEFAULT_CHAT_TEMPLATE } from '../../lib/data/index.js';
import { loadModel } from '../../lib/models/index.js';
import type { FinetuneOptions } from '../../lib/train/finetune.js';
import { generateText } from '../../lib/train/generate-text.js';
import { mergeAdapter } from '../../lib/train/merge-adapter.js';
import type { RunOptions } from '../../lib/train/run.js';
import { summaryTable } from '../../lib/train/summary.js';
import { losses, makeTiny, metricsOf, type Tiny, tune } from './tiny.js';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

let tiny: Tiny;
beforeAll(async () => {
  tiny = await makeTiny();
});
afterAll(() => rmSync(tiny.folder, { recursive: true }));

const run = (more?: Partial<FinetuneOptions>, options?: RunOptions) => tune(tiny, more, options);

describe('results', () => {
  it('leaves an adapter, metrics, events, a chart and the description of the run', async () => {
    const { out, summary } = await run({ epochs: 2, evalSplit: 0.2, seed: 3 });
    expect(readdirSync(join(out, 'adapter'))).toEqual(
      expect.arrayContaining(['adapter_config.json', 'adapter_model.safetensors', 'chat_template.jinja']),
    );
    expect(readFileSync(join(out, 'adapter', 'chat_template.jinja'), 'utf8')).toBe(DEFAULT_CHAT_TEMPLATE);
    expect(readdirSync(out).filter((name) => name.startsWith('events.out.tfevents.'))).toHaveLength(1);
    expect(readFileSync(join(out, 'loss.svg'), 'utf8')).toContain('<svg');
    const description = JSON.parse(readFileSync(join(out, 'run.json'), 'utf8'));
    expect(description).toMatchObject({
      command: 'finetune',
      seed: 3,
      config: { loraRank: 8 },
      ranks: 1,
      device: 'cpu',
    });
    expect(description.versions).toMatchObject({ node: process.version, shardloop: expect.any(String) });
    expect(description.result).toEqual(summary);

    const metrics = metricsOf(out);
    expect(metrics.map((m) => m.step)).toEqual([1, 2, 3, 4, 5, 6].slice(0, metrics.length));
    for (const m of metrics) {
      expect(m.loss).toBeGreaterThan(0);
      expect(m.lr).toBeGreaterThan(0);
      expect(m.tokens).toBeGreaterThan(0);
      expect(m.gradNorm).toBeGreaterThan(0);
      expect(m.tokensPerSecond).toBeGreaterThan(0);
    }
    expect(metrics.map((m) => m.time)).toEqual(metrics.map((m) => m.time).toSorted((a, b) => a - b));
    expect(metrics.at(-1)!.evalLoss).toBe(summary.evalLoss);
    expect(summary.evalLoss!).toBeLessThan(summary.evalLossBefore!);
    expect(summary.evalPerplexity).toBeCloseTo(Math.exp(summary.evalLoss!), 6);
    expect(summary.trainable).toBeLessThan(summary.parameters / 2);
  });

  it('changes what is generated, applies the template, and merges to the same', async () => {
    const { out } = await run({ epochs: 20, lr: 2e-2 });
    const ask = {
      model: tiny.model,
      prompt: 'Say 3 xxx',
      maxNewTokens: 20,
      temperature: 0,
      seed: 1,
      device: 'cpu' as const,
    };
    const adapter = join(out, 'adapter');
    const tuned = await generateText({ ...ask, adapter });
    expect(tuned.promptTokenIds).toEqual([...Buffer.from('Say 3 xxx\n')]);
    expect((await generateText({ ...ask, adapter, raw: true })).promptTokenIds).toEqual([...Buffer.from('Say 3 xxx')]);
    expect((await generateText(ask)).tokenIds).not.toEqual(tuned.tokenIds);
    const merged = join(out, 'merged');
    expect((await mergeAdapter({ model: tiny.model, adapter, out: merged })).merged).toBe(8);
    expect(await generateText({ ...ask, model: merged })).toEqual(tuned); // the adapter's template came along
    const refused = { code: 'BAD_CONFIG' };
    symlinkSync(tiny.model, join(out, 'link'));
    for (const to of [tiny.model, `${tiny.model}/.`, join(out, 'link'), adapter, tiny.data, out]) {
      await expect(mergeAdapter({ model: tiny.model, adapter, out: to }), to).rejects.toMatchObject(refused);
    }
    expect(readdirSync(tiny.model)).not.toContain('chat_template.jinja');
    const again = { model: tiny.model, adapter, out: merged };
    await expect(mergeAdapter(again)).rejects.toThrow(/holds a result already .* or replace it with overwrite/);
    expect((await mergeAdapter({ ...again, overwrite: true })).out).toBe(merged);
    for (const to of [tiny.model, adapter, out])
      await expect(mergeAdapter({ ...again, out: to, overwrite: true }), to).rejects.toMatchObject(refused);
  });

  it.runIf(existsSync('/proc/self/maps'))('generates from weights that stay in their file', async () => {
    const { signal } = new AbortController();
    let isMapped = false;
    const isAborted = () => {
      isMapped ||= readFileSync('/proc/self/maps', 'utf8').includes(join(tiny.model, 'model.safetensors'));
      return false;
    };
    Object.defineProperty(signal, 'aborted', { get: isAborted }); // asked between two tokens
    const ask = { prompt: 'Say', maxNewTokens: 2, temperature: 0, seed: 1, device: 'cpu' as const };
    await generateText({ ...ask, model: tiny.model, signal });
    expect(isMapped).toBe(true);
  });

  it('says of its own options what the adapter refuses', async () => {
    const refused = (more: Partial<FinetuneOptions>) => expect(run({ ...more, maxSteps: 1 })).rejects;
    const error = (text: string) => ({ code: 'BAD_CONFIG', message: expect.stringContaining(text) });
    await refused({ loraRank: 999 }).toMatchObject(error('loraRank: expected at most '));
    await refused({ loraAlpha: 1e300 }).toMatchObject(error('loraAlpha: expected one whose scale'));
    await refused({ targetModules: 'q_proj' }).toMatchObject(error('targetModules: "q_proj" matches no layer'));
  });

  it('never writes over the model that it tunes', async () => {
    const { out } = await run({ method: 'full', lr: 1e-3 });
    const model = join(out, 'model');
    const before = readFileSync(join(model, 'model.safetensors'));
    await expect(run({ out, model, method: 'full' })).rejects.toThrow(
      /folder of model and would be overwritten; name another/,
    );
    expect(readFileSync(join(model, 'model.safetensors')).equals(before)).toBe(true);
    await run({ out, model, method: 'lora', maxSteps: 1 });
  });

  it('method full trains and writes the whole model', async () => {
    const { out, summary } = await run({ method: 'full', lr: 1e-3 });
    expect(summary.trainable).toBe(summary.parameters);
    expect(summary.result).toBe(join(out, 'model'));
    const { model } = await loadModel(join(out, 'model'));
    model.dispose();
    expect(existsSync(join(out, 'adapter'))).toBe(false);
  });

  it('leaves no tensor behind', async () => {
    await run();
    // What earlier tests left to the net (runs that ended in an error) must not be freed between the two looks.
    for (let i = 0; i < 3; i++) {
      collect();
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const before = stats().handles;
    await run({ epochs: 3, evalSplit: 0.2, saveSteps: 2 });
    expect(stats().handles).toBe(before);
  });
});

describe('options change what they name', () => {
  it.each<[string, Partial<FinetuneOptions>]>([
    ['seed', { seed: 2 }],
    ['lr', { lr: 1e-3 }],
    ['schedule', { schedule: 'constant' }],
    ['warmupSteps', { warmupSteps: 4 }],
    ['minLrRatio', { minLrRatio: 0.5 }],
    ['decayRatio', { schedule: 'wsd', decayRatio: 0.9 }],
    ['optimizer', { optimizer: 'lion' }],
    ['weightDecay', { weightDecay: 0.9 }],
    ['beta1', { beta1: 0.1 }],
    ['beta2', { beta2: 0.1 }],
    ['epsilon', { epsilon: 0.1 }],
    ['clip', { clip: 1e-3 }],
    ['precision', { precision: 'bf16' }],
    ['autocast', { precision: 'bf16-autocast' }],
    ['microBatch', { microBatch: 4 }],
    ['loraRank', { loraRank: 2 }],
    ['loraAlpha', { loraAlpha: 64 }],
    ['loraDropout', { loraDropout: 0.5 }],
    ['targetModules', { targetModules: 'c_attn' }],
    ['seqLen', { seqLen: 16 }],
    ['pack', { pack: true }],
    ['method', { method: 'full' }],
  ])('%s', async (_, changed) => {
    const [plain, other] = [await run({ epochs: 2 }), await run({ epochs: 2, ...changed })];
    expect(losses(other.out)).not.toEqual(losses(plain.out));
    expect(losses(other.out).every(Number.isFinite)).toBe(true);
  });

  it('the same config gives the same losses; checkpointing and splitting the batch change nothing', async () => {
    const plain = losses((await run({ epochs: 2 })).out);
    expect(losses((await run({ epochs: 2 })).out)).toEqual(plain);
    expect(losses((await run({ epochs: 2, checkpointing: 'full' })).out)).toEqual(plain);
    expect(losses((await run({ epochs: 2, checkpointing: 2 })).out)).toEqual(plain);
    const split = losses((await run({ epochs: 2, microBatch: 2, gradAccum: 4 })).out);
    expect(split).toHaveLength(plain.length);
    for (const [i, loss] of split.entries()) expect(Math.abs(loss / plain[i]! - 1)).toBeLessThan(1e-5);
  });

  it('counts epochs, steps, evaluations and checkpoints as told', async () => {
    expect(losses((await run({ epochs: 1.5 })).out)).toHaveLength(5);
    expect(losses((await run({ epochs: 9, maxSteps: 4 })).out)).toHaveLength(4);
    const { out } = await run({ epochs: 3, evalData: tiny.data, evalSteps: 2, saveSteps: 2, saveTotalLimit: 3 });
    expect(metricsOf(out).flatMap((m) => (m.evalLoss === undefined ? [] : [m.step]))).toEqual([2, 4, 6, 8, 9]);
    expect(
      readdirSync(out)
        .filter((name) => name.startsWith('checkpoint-'))
        .toSorted(),
    ).toEqual(['checkpoint-4', 'checkpoint-6', 'checkpoint-8']);
  });

  it('takes a template from a file, and threads, format and device', async () => {
    const template = join(tiny.folder, 'template.jinja');
    writeFileSync(template, "{% for m in messages %}<{{ m['role'] }}>{{ m['content'] }}{% endfor %}");
    const { out } = await run({ template, threads: 2, device: 'cpu' });
    expect(readFileSync(join(out, 'adapter', 'chat_template.jinja'), 'utf8')).toContain('<{{');
    expect(JSON.parse(readFileSync(join(out, 'run.json'), 'utf8'))).toMatchObject({ threads: 2, device: 'cpu' });
    await expect(run({ format: 'csv' })).rejects.toMatchObject({ code: 'BAD_RECORD' });
    await expect(run({ template: 'no-such-file' })).rejects.toMatchObject({ code: 'BAD_CONFIG' });
  });
});

describe('refusals', () => {
  it('names a bad record, a sequence length beyond the model, a folder that is not there', async () => {
    const data = join(tiny.folder, 'bad.jsonl');
    writeFileSync(data, '{"prompt": "a", "response": "b"}\n{"prompt": "a"}\n');
    await expect(run({ data })).rejects.toThrow(/bad\.jsonl:2: /);
    await expect(run({ seqLen: 97 })).rejects.toMatchObject({ code: 'BAD_CONFIG' });
    await expect(run({ model: 'no-such-folder' })).rejects.toMatchObject({ code: 'BAD_CONFIG' });
    await expect(run({ loraRnak: 2 } as object)).rejects.toThrow('did you mean loraRank?');
  });

  it('refuses a second run into a folder, a file as a folder, and ranks that nothing starts', async () => {
    const out = join(tiny.folder, 'busy');
    const second: Promise<unknown>[] = [];
    const write = () => void (second.length === 0 && second.push(run({ out }).catch((error: Error) => error)));
    await run({ out }, { sinks: [{ write, close: () => {} }] });
    expect(await second[0]).toMatchObject({
      code: 'BAD_CONFIG',
      message: expect.stringContaining(`process ${process.pid}`),
    });
    expect(losses(out)).toHaveLength(3);
    expect(existsSync(join(out, '.run.lock'))).toBe(false);
    for (const dryRun of [true, false]) {
      await expect(run({ out: tiny.data }, { dryRun })).rejects.toThrow(/^out: expected a folder to write/);
    }
    await expect(run({ nproc: 2 })).rejects.toThrow(/nproc: .*received 2.*shardloop launch --nproc-per-node 2/);
  });

  it('stops with a sentence when the loss diverges, and says so in metrics.jsonl', async () => {
    const out = join(tiny.folder, 'diverged');
    await expect(run({ out, method: 'full', lr: 1e30, clip: 0, epochs: 4 })).rejects.toMatchObject({
      code: 'NON_FINITE',
    });
    const text = readFileSync(join(out, 'metrics.jsonl'), 'utf8');
    expect(text).toMatch(/"(NaN|Infinity)"/);
    expect(text).not.toContain('null');
  });
});

describe('records beyond the sequence length', () => {
  it('are cut and counted, left out, or refused, as told', async () => {
    const seqLen = 24;
    const cut = await run({ seqLen }, { dryRun: true });
    expect(cut.summary.truncated).toBeGreaterThan(0);
    expect(cut.summary.plan).toMatchObject({ records: 22, truncated: cut.summary.truncated, skipped: 0 });
    expect(cut.summary.notes).toEqual([
      `${cut.summary.truncated} of 22 records are longer than 24 tokens (seqLen): their ends were cut off (overlong)`,
    ]);
    expect(summaryTable(cut.summary)).toContain(`${cut.summary.truncated} cut to the sequence length`);
    const { out, summary } = await run({ seqLen, overlong: 'skip', evalSplit: 0.2 });
    expect(summary).toMatchObject({ truncated: 0, skipped: cut.summary.truncated });
    expect(JSON.parse(readFileSync(join(out, 'run.json'), 'utf8')).result.skipped).toBe(summary.skipped);
    const refused = { code: 'BAD_RECORD' };
    await expect(run({ seqLen, overlong: 'error' })).rejects.toMatchObject(refused);
    await expect(run({ seqLen: 4, overlong: 'skip' })).rejects.toThrow('all 22 are longer');
    await expect(run({ seqLen: 4 })).rejects.toThrow(
      "Raise seqLen, shorten the record, or leave such records out (overlong: 'skip')",
    );
    expect((await run()).summary).toMatchObject({ truncated: 0, skipped: 0 });
  });
});

describe('dry run', () => {
  it('plans, takes one step, writes nothing', async () => {
    const out = join(tiny.folder, 'dry');
    const { summary } = await run({ out, epochs: 2, gradAccum: 2, microBatch: 4, precision: 'bf16' }, { dryRun: true });
    expect(existsSync(out)).toBe(false);
    expect(summary.plan).toMatchObject({
      steps: 6,
      stepsPerEpoch: 3,
      records: 22,
      globalBatch: 8,
      microBatch: 4,
      ranks: 1,
    });
    expect(summary.plan!.labelledTokens).toBeLessThan(summary.plan!.tokens);
    // Blocks below 1 kB are not counted, others as the heap rounds them: a third for an adapter of 16 kB.
    const { parameters, optimizer, gradients, activations, peak } = summary.memory!;
    const bytes = [parameters, optimizer, gradients];
    const expected = [summary.parameters * 2, summary.trainable * 12, summary.trainable * 2]; // bf16, with fp32 masters
    for (const [i, count] of bytes.entries()) expect(Math.abs(count / expected[i]! - 1), `${i}`).toBeLessThan(0.35);
    expect(activations).toBeGreaterThan(0);
    expect(peak).toBe(parameters + optimizer + gradients + activations);
    expect(summary.steps).toBe(1);
    expect(summary.result).toBeUndefined();
  });
});
