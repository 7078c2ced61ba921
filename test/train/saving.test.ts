// When checkpoints are written and which ones stay: in the background, the best one, and what a failed save leaves.
import { existsSync, readdirSync, readFileSync, readlinkSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { openCheckpoint } from '../../lib/io/index.js';
import type { FinetuneOptions } from '../../lib/train/finetune.js';
import type { RunOptions } from '../../lib/train/run.js';
import { startRanks } from './kills.js';
import { losses, makeTiny, metricsOf, type Tiny, tune } from './tiny.js';

let tiny: Tiny;
let runs = 0;
beforeAll(async () => {
  tiny = await makeTiny();
});
afterAll(() => rmSync(tiny.folder, { recursive: true }));

const run = (more?: Partial<FinetuneOptions>, options?: RunOptions) => tune(tiny, more, options);
const checkpoints = (out: string) =>
  readdirSync(out)
    .filter((name) => name.startsWith('checkpoint-'))
    .sort();
const sums = (out: string, name: string) => JSON.parse(readFileSync(join(out, name, 'manifest.json'), 'utf8')).files;

describe('a save in the background', () => {
  it('holds what one in the foreground holds, and changes no loss', async () => {
    const config = { epochs: 3, saveSteps: 3, saveTotalLimit: 9 };
    const plain = await run(config);
    const background = await run({ ...config, saveBackground: true, saveThrottleMb: 2 });
    expect(losses(background.out)).toEqual(losses(plain.out));
    expect(checkpoints(background.out)).toEqual(['checkpoint-3', 'checkpoint-6']);
    for (const name of checkpoints(plain.out)) {
      const part = 'part-00000.safetensors';
      expect(sums(background.out, name)[part]).toEqual(sums(plain.out, name)[part]);
    }
    expect(readdirSync(background.out).filter((name) => name.startsWith('.'))).toEqual([]);
  });

  it('lets steps go on meanwhile, is waited for by the next one and by the end', async () => {
    const config = { epochs: 4, method: 'full', lr: 1e-3, saveBackground: true } as const;
    const { bytes } = sums((await run({ ...config, saveSteps: 3, maxSteps: 4 })).out, 'checkpoint-3')[
      'part-00000.safetensors'
    ];
    const saveThrottleMb = bytes / 1e6; // a second for each save
    const seen: string[][] = [];
    const out = join(tiny.folder, `saving-${runs++}`);
    const sinks = [{ write: () => void seen.push(existsSync(out) ? checkpoints(out) : []), close: () => {} }];
    await run({ ...config, out, saveSteps: 3, maxSteps: 7, saveThrottleMb }, { sinks });
    expect(seen.map((names) => names.length)).toEqual([0, 0, 0, 0, 0, 0, 1]); // steps 4 to 6 did not wait, the save of 6 did
    const { time } = metricsOf(out)[4]!;
    expect(metricsOf(out)[6]!.time - time).toBeGreaterThan(0.5);
    expect(checkpoints(out)).toEqual(['checkpoint-3', 'checkpoint-6']);
    await openCheckpoint(join(out, 'checkpoint-6')).then((checkpoint) => checkpoint.close());
  });

  it('is complete when an interrupt says how to resume', async () => {
    const controller = new AbortController();
    const sinks = [{ write: ({ step }: { step: number }) => void (step === 2 && controller.abort()), close: () => {} }];
    const out = join(tiny.folder, `saving-${runs++}`);
    const config = { epochs: 3, saveBackground: true, saveThrottleMb: 0.5, out };
    await expect(run(config, { signal: controller.signal, sinks })).rejects.toMatchObject({
      code: 'INTERRUPTED',
      message: expect.stringContaining(join(out, 'checkpoint-3')),
    });
    await run({ ...config, resume: 'auto' });
    expect(losses(out)).toEqual(losses((await run({ epochs: 3 })).out));
  });

  it('refuses options that ask for nothing', async () => {
    const refused = (more: Partial<FinetuneOptions>) => expect(run(more)).rejects.toMatchObject({ code: 'BAD_CONFIG' });
    await refused({ saveThrottleMb: 5 });
    await refused({ saveBest: true });
    await refused({ saveBest: true, evalSplit: 0.2 });
  });
});

describe('which checkpoints stay', () => {
  it('the newest, and with --save-best the one with the lowest held-out loss', async () => {
    // Bytes that the training records lack: the more is learned, the less likely they are.
    const evalData = join(tiny.folder, 'other.json');
    writeFileSync(evalData, JSON.stringify([{ prompt: 'Ω', response: 'ЖЩЮЯ' }]));
    const config = { method: 'full', lr: 1e-2, schedule: 'constant', warmupSteps: 0, evalData, evalSteps: 2 } as const;
    const keeping = { ...config, saveBest: true, saveSteps: 3, saveTotalLimit: 1 };
    const { out } = await run({ ...keeping, epochs: 4 });
    const scored = metricsOf(out).filter(({ evalLoss }) => evalLoss !== undefined);
    const best = scored.reduce((a, b) => (b.evalLoss! < a.evalLoss! ? b : a)).step;
    const last = scored.at(-1)!.step;
    expect(best).toBeLessThan(last - 3); // or the test shows nothing
    const newest = last - 1 - ((last - 1) % 3);
    expect(checkpoints(out)).toEqual([`checkpoint-${best}`, `checkpoint-${newest}`].sort());
    expect([readlinkSync(join(out, 'best')), readlinkSync(join(out, 'latest'))]).toEqual([
      `checkpoint-${best}`,
      `checkpoint-${newest}`,
    ]);
    // A resumed run still knows which was best.
    await run({ ...keeping, epochs: 6, out, resume: join(out, 'latest') });
    expect(readlinkSync(join(out, 'best'))).toBe(`checkpoint-${best}`);
    expect(checkpoints(out)).toContain(`checkpoint-${best}`);
  });
});

describe('a disk that is full', () => {
  it.each(['', '--save-background'])('on one of two ranks stops both with the same words (%s)', async (more) => {
    const out = join(tiny.folder, `saving-${runs++}`);
    const flags = `--method full --zero 1 --micro-batch 4 --epochs 3 --save-steps 2 --threads 1 ${more}`
      .trim()
      .split(' ');
    const args = ['finetune', '--model', tiny.model, '--data', tiny.data, '--out', out, '--lr', '1e-3', ...flags];
    const first = await startRanks(2, [...args, '--max-steps', '3']);
    expect(await Promise.all(first.map(({ ended }) => ended)), first[0]!.err()).toEqual([0, 0]);
    expect(checkpoints(out)).toEqual(['checkpoint-2']);
    const ranks = await startRanks(2, [...args, '--resume', 'auto'], { 1: 40 });
    expect(await Promise.all(ranks.map(({ ended }) => ended))).toEqual([1, 1]);
    for (const { err } of ranks) {
      expect(err()).toMatch(/checkpoint-4 could not be written: rank 1: EFBIG.*Older checkpoints are whole/);
    }
    expect(readdirSync(out).filter((name) => /checkpoint/.test(name))).toEqual(['checkpoint-2']);
    await openCheckpoint(join(out, 'latest')).then((checkpoint) => checkpoint.close());
  });
});
