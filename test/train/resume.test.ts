// Stopping and going on: bit-identical resume, what is refused, and what becomes of checkpoints that are in the way.
import { createHash } from 'node:crypto';
import { cpSync, existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { setFlagsFromString } from 'node:v8';
import { runInNewContext } from 'node:vm';
import { crc32 } from 'node:zlib';
import { afterAll, beforeAll, describe, expect, it, vi } from 'vitest';
import { stats } from '../../lib/core/memory.js';
import type { FinetuneOptions } from '../../lib/train/finetune.js';
import type { RunOptions } from '../../lib/train/run.js';
import { runRanks } from '../dist/ranks.js';
import { losses, makeTiny, metricsOf, type Tiny, tune } from './tiny.js';

setFlagsFromString('--expose-gc');
const collect = runInNewContext('gc') as () => void;

let tiny: Tiny;
let folders = 0;
beforeAll(async () => {
  tiny = await makeTiny();
});
afterAll(() => rmSync(tiny.folder, { recursive: true }));

const run = (more?: Partial<FinetuneOptions>, options?: RunOptions) => tune(tiny, more, options);

/** A signal that aborts while step `n` is noted. */
function stopAt(n: number): RunOptions {
  const controller = new AbortController();
  return {
    signal: controller.signal,
    sinks: [{ write: ({ step }) => (step === n - 1 ? controller.abort('SIGINT') : undefined), close: () => {} }],
  };
}

it('says in which phase it is, so that a signal can be answered', async () => {
  const phases: string[] = [];
  const note = { onPhase: (phase: string) => void phases.push(phase) };
  await run({ maxSteps: 3 }, note);
  expect(phases).toEqual(['before the first step', 'in a step', 'in a step', 'in the last step']);
  phases.length = 0;
  await run({}, { ...note, dryRun: true });
  expect(phases).toEqual(['before the first step', 'in the last step']);
});

describe('stop and resume', () => {
  const config: Partial<FinetuneOptions> = { epochs: 3, loraDropout: 0.1, evalSplit: 0.1, evalSteps: 2 };

  it.each<[string, Partial<FinetuneOptions>]>([
    ['lora', {}],
    ['full', { method: 'full', lr: 1e-3 }],
    ['bf16', { precision: 'bf16' }],
    ['adafactor', { optimizer: 'adafactor' }],
    ['packed, accumulated', { pack: true, microBatch: 1, gradAccum: 2, seqLen: 64 }],
  ])('%s: stopping at any step and resuming gives bit-identical losses', async (_, more) => {
    const whole = await run({ ...config, ...more });
    const count = losses(whole.out).length;
    for (const at of [2, count - 1]) {
      const out = join(tiny.folder, `resumed-${folders++}`);
      const stopped = run({ ...config, ...more, out }, stopAt(at));
      await expect(stopped).rejects.toMatchObject({
        code: 'INTERRUPTED',
        message: expect.stringContaining('resume auto'),
      });
      expect(losses(out)).toHaveLength(at);
      expect(existsSync(join(out, 'adapter'))).toBe(false);
      await run({ ...config, ...more, out, resume: 'auto' });
      expect(losses(out)).toEqual(losses(whole.out));
      const evaluations = (folder: string) => metricsOf(folder).map((m) => m.evalLoss);
      expect(evaluations(out)).toEqual(evaluations(whole.out)); // also the one that was due at the stop
    }
  });

  it('stops in every phase before the first step, and leaves no checkpoint and no metrics', async () => {
    const phases: boolean[] = [];
    for (let after = 0; ; after++) {
      const out = join(tiny.folder, `early-${folders++}`);
      let reads = 0;
      const signal = Object.defineProperty(new EventTarget(), 'aborted', {
        get: () => reads++ >= after,
      }) as AbortSignal;
      const error = await run({ ...config, evalSplit: 0.5, microBatch: 2, out }, { signal }).catch((e: Error) => e);
      if (!(error instanceof Error)) throw new Error('expected the run to stop');
      expect(error).toMatchObject({ code: 'INTERRUPTED' });
      const early = error.message === 'stopped before the first step: nothing was trained yet';
      phases.push(early);
      const names = existsSync(out) ? readdirSync(out) : [];
      expect(names.some((name) => name.startsWith('checkpoint-'))).toBe(!early);
      expect(names.includes('metrics.jsonl')).toBe(!early);
      if (!early) break;
    }
    expect(phases.length).toBeGreaterThan(8); // opening, loading, reading, resuming, and the batches of an evaluation
  });

  it('resumes from a folder that is named, and forgets later lines', async () => {
    const whole = await run({ ...config, saveSteps: 2, saveTotalLimit: 9 });
    const before = losses(whole.out);
    await run({ ...config, saveSteps: 2, out: whole.out, resume: join(whole.out, 'checkpoint-2') });
    expect(losses(whole.out)).toEqual(before);
  });

  it('refuses a checkpoint of other data, another batch size, method or optimizer', async () => {
    const { out } = await run({ ...config, saveSteps: 2, saveTotalLimit: 9 });
    const resume = join(out, 'checkpoint-2');
    const refused = { code: 'BAD_CHECKPOINT' };
    await expect(run({ ...config, resume, seed: 9 })).rejects.toMatchObject(refused);
    const batch = await run({ ...config, resume, microBatch: 4 }).catch((e: Error) => e);
    expect(batch).toMatchObject({
      ...refused,
      message: expect.stringMatching(
        /expected microBatch x gradAccum x ranks = 8 records a step, .* received 4 x 1 x 1 = 4\. With 1 rank take microBatch x gradAccum = 8$/,
      ),
    });
    await expect(run({ ...config, resume, loraRank: 4 })).rejects.toMatchObject(refused);
    await expect(run({ ...config, resume, optimizer: 'sgd' })).rejects.toMatchObject(refused);
    await expect(run({ ...config, resume: join(out, 'checkpoint-99') })).rejects.toMatchObject(refused);
  });

  it('refuses another base model, adapter or precision by name, and says what else changed', async () => {
    const { out, summary } = await run({ ...config, saveSteps: 2, saveTotalLimit: 9 });
    const resume = join(out, 'checkpoint-2');
    const other = (await run({ ...config, method: 'full', maxSteps: 1 })).summary.result!;
    const refused: [Partial<FinetuneOptions>, RegExp][] = [
      [{ model: other }, /: model: expected the base weights .* received others in/],
      [{ loraAlpha: 32 }, /: loraAlpha: expected 16, with which it was made, received 32/],
      [{ loraDropout: 0.2 }, /: loraDropout: expected 0\.1, .* received 0\.2/],
      [{ targetModules: 'c_attn' }, /: targetModules: expected "all-linear", .* received "c_attn"/],
      [{ precision: 'bf16' }, /: precision: expected "fp32", .* received "bf16"/],
      [{ loraRank: 4 }, /: loraRank: expected 8, .* received 4/],
    ];
    for (const [changed, message] of refused) {
      const again = run({ ...config, resume, ...changed });
      await expect(again).rejects.toMatchObject({ code: 'BAD_CHECKPOINT', message: expect.stringMatching(message) });
    }
    const copy = join(tiny.folder, 'copy-of-base');
    cpSync(tiny.model, copy, { recursive: true });
    const resumed = await run({ ...config, resume, model: copy, lr: 5e-3, saveTotalLimit: 9 });
    expect(resumed.summary.notes).toEqual([expect.stringContaining('from here on lr 0.005 (before: 0.01)')]);
    const same = await run({ ...config, resume });
    // Time and memory are of the process, not of the run.
    const measured = { seconds: expect.any(Number), memory: expect.any(Object), utilization: expect.any(Number) };
    expect(same.summary).toEqual({ ...summary, result: same.summary.result, ...measured });
    expect(same.summary.seconds).toBeGreaterThan(metricsOf(out)[1]!.time);
  });

  it('closes what it had opened when it is refused, or a model cannot be changed', async () => {
    const { out } = await run({ ...config, saveSteps: 2, saveTotalLimit: 9 });
    const refused = async () => {
      for (const more of [
        { resume: join(out, 'checkpoint-2'), optimizer: 'sgd' },
        { targetModules: 'q_proj' },
      ] as const)
        await expect(run({ ...config, ...more })).rejects.toBeInstanceOf(Error);
    };
    await refused();
    for (let i = 0; i < 3; i++) {
      collect(); // what other tests left must not be freed between the two looks
      await new Promise((resolve) => setTimeout(resolve, 10));
    }
    const before = stats().handles;
    await refused();
    expect(stats().handles).toBe(before);
  });

  it('closes the groups of a hybrid shape when it is refused', async () => {
    const flags = { model: tiny.model, data: tiny.data, method: 'full', zero: 1, shardRanks: 1, resume: 'no-such' };
    const [first] = await runRanks(
      2,
      `const { finetune } = await import('${new URL('../../dist/index.js', import.meta.url).href}');
       const { readdirSync } = await import('node:fs');
       const group = await dist.init({ backend: 'gloo' });
       const refused = () => failure(() => finetune({ ...${JSON.stringify(flags)}, out: ${JSON.stringify(join(tiny.folder, 'hybrid'))} }, { group }));
       const open = () => readdirSync('/proc/self/fd').length;
       await refused();
       const [before, error] = [open(), await refused()];
       await refused();
       for (let i = 0; i < 100 && open() > before; i++) await new Promise((resolve) => setTimeout(resolve, 50));
       report({ error: error.slice(0, 14), more: open() - before });
       await group.barrier().done();
       await group.destroy();`,
    );
    expect(first!.err).toBe('');
    expect(first!.reports[0]).toEqual({ error: 'BAD_CHECKPOINT', more: 0 });
  });

  it('names the tensor and both shapes when the model has another shape', async () => {
    const { out } = await run({ ...config, method: 'full', lr: 1e-3, saveSteps: 2, saveTotalLimit: 9 });
    const resume = join(out, 'checkpoint-2');
    const state = join(resume, 'state.json');
    const older = JSON.parse(readFileSync(state, 'utf8'));
    delete older.origin; // as written before checkpoints told where they come from
    const manifest = JSON.parse(readFileSync(join(resume, 'manifest.json'), 'utf8'));
    const hash = (text: string) => createHash('sha256').update(text).digest('hex');
    const text = JSON.stringify(older);
    writeFileSync(state, text);
    manifest.files['state.json'] = { bytes: Buffer.byteLength(text), crc32: crc32(text) };
    writeFileSync(join(resume, 'manifest.json'), JSON.stringify(manifest));
    writeFileSync(join(resume, 'COMMITTED'), hash(JSON.stringify(manifest)));
    await expect(run({ ...config, resume })).rejects.toThrow(
      /expected the shape \[\d+, \d+\] that trains here, received none/,
    );
    await run({ ...config, resume, method: 'full', lr: 1e-3 });
  });

  it('sets checkpoints that are incomplete aside, and says so', async () => {
    const shown: string[] = [];
    const progress = { isTTY: false, write: (text: string) => shown.push(text) } as unknown as NodeJS.WriteStream;
    const { out } = await run({ ...config, saveSteps: 2, maxSteps: 3 });
    mkdirSync(join(out, 'checkpoint-4'));
    writeFileSync(join(out, 'checkpoint-4', 'state.json'), '{}');
    await run({ ...config, out, resume: 'auto', saveSteps: 2 }, { dryRun: true, progress });
    expect(shown.join('')).toContain('checkpoint-4: incomplete');
    expect(existsSync(join(out, 'checkpoint-4', 'COMMITTED'))).toBe(false);
    const resumed = await run({ ...config, out, resume: 'auto', saveSteps: 2 }, { progress });
    expect(resumed.summary.notes!.join('\n')).toMatch(/checkpoint-4: incomplete .*\n.*are now in .*before-/);
    const aside = readdirSync(out).find((name) => name.startsWith('before-'))!;
    expect(readdirSync(join(out, aside))).toEqual(['checkpoint-4']);
    for (const name of readdirSync(out))
      if (/^checkpoint-/.test(name)) rmSync(join(out, name, 'COMMITTED'), { force: true });
    const anew = await run({ ...config, out, resume: 'auto' });
    expect(anew.summary.notes!.join('\n')).toContain('incomplete');
    expect(readdirSync(out).filter((name) => name.startsWith('before-'))).toHaveLength(2);
  });

  it('auto begins anew where there is nothing, and a new run sets old checkpoints aside', async () => {
    const first = await run({ ...config, saveSteps: 2, resume: 'auto' });
    await run({ ...config, out: first.out });
    const names = readdirSync(first.out);
    expect(names.filter((name) => name.startsWith('checkpoint-'))).toEqual([]);
    const aside = names.find((name) => name.startsWith('before-'))!;
    expect(readdirSync(join(first.out, aside)).length).toBeGreaterThan(0);
  });

  it('a new run sets the result and the reports of an earlier one aside, and says so; one that goes on does not', async () => {
    const { out } = await run({ ...config, saveSteps: 2, maxSteps: 4 });
    const files = ['adapter/adapter_model.safetensors', 'metrics.jsonl', 'metrics.csv', 'run.json', 'loss.svg'];
    const read = (folder: string) => files.map((name) => readFileSync(join(folder, name), 'utf8'));
    const earlier = read(out);
    const events = readdirSync(out).filter((name) => name.startsWith('events.'));
    mkdirSync(join(out, 'model')); // what it does not write stays
    const { summary } = await run({ ...config, out, maxSteps: 2 });
    const [aside, ...more] = readdirSync(out).filter((name) => name.startsWith('before-'));
    expect(more).toEqual([]);
    expect(read(join(out, aside!))).toEqual(earlier);
    expect(readdirSync(join(out, aside!))).toEqual(expect.arrayContaining([...events, 'checkpoint-2']));
    expect(summary.notes!.join('\n')).toMatch(/held checkpoints and results \(adapter, .*metrics\.jsonl.*before-/);
    expect(metricsOf(out).map(({ step }) => step)).toEqual([1, 2]);
    expect(existsSync(join(out, 'model'))).toBe(true);
    await run({ ...config, out, resume: 'auto', saveSteps: 2, maxSteps: 3 }); // no checkpoint is left: anew
    const count = () => readdirSync(out).filter((name) => name.startsWith('before-')).length;
    expect(count()).toBe(2);
    await run({ ...config, out, resume: 'auto', maxSteps: 4 });
    expect(count()).toBe(2);
    expect(metricsOf(out).map(({ step }) => step)).toEqual([1, 2, 3, 4]);
  });

  it.each([
    ['0', 'a', 'a', true],
    ['1', 'a', 'a', false],
    ['1', 'a', 'b', true],
  ])('restart %s of launch %s after one of launch %s sets aside: %s', async (restart, launch, earlier, isAside) => {
    const rank = { RANK: '0', WORLD_SIZE: '1', LOCAL_RANK: '0', LOCAL_WORLD_SIZE: '1' };
    for (const [name, value] of Object.entries(rank)) vi.stubEnv(name, value);
    vi.stubEnv('SHARDLOOP_LAUNCH_ID', earlier);
    try {
      const { out } = await run({ ...config, maxSteps: 2 });
      vi.stubEnv('SHARDLOOP_LAUNCH_ID', launch);
      vi.stubEnv('TORCHELASTIC_RESTART_COUNT', restart);
      await run({ ...config, out, maxSteps: 2 });
      expect(readdirSync(out).some((name) => name.startsWith('before-'))).toBe(isAside);
    } finally {
      vi.unstubAllEnvs();
    }
  });
});
