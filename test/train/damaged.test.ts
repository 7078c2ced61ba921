// Checkpoints that are damaged, and folders that are none: what `--resume` says, and what it goes on from.
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, truncateSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { afterAll, afterEach, beforeAll, describe, expect, it, vi } from 'vitest';
import { shardloop } from '../cli/run.js';
import { losses, makeTiny, type Tiny, tune } from './tiny.js';

let tiny: Tiny;
beforeAll(async () => {
  tiny = await makeTiny();
});
afterAll(() => rmSync(tiny.folder, { recursive: true }));
afterEach(() => vi.unstubAllEnvs());

const config = { epochs: 3, saveSteps: 2, saveTotalLimit: 9, loraDropout: 0.1 } as const; // 9 steps, checkpoints 2 to 8
const PART = 'part-00000.safetensors';

const flip = (path: string) => {
  const bytes = readFileSync(path);
  bytes[bytes.length - 1]! ^= 1;
  writeFileSync(path, bytes);
};
const DAMAGES: [string, (checkpoint: string) => void, RegExp][] = [
  ['a changed byte', (path) => flip(join(path, PART)), /CRC-32 differs/],
  ['a file cut short', (path) => truncateSync(join(path, PART), 100), /expected \d+ bytes, received 100/],
  ['a file that is gone', (path) => rmSync(join(path, 'state.json')), /state\.json: expected .* it is missing/],
  ['a manifest of another', (path) => flip(join(path, 'manifest.json')), /manifest\.json is not the one/],
];
const checkpoints = (folder: string) => readdirSync(folder).filter((name) => name.startsWith('checkpoint-'));
const aside = (out: string) => readdirSync(out).filter((name) => name.startsWith('before-'));
const damage = (out: string, ...steps: number[]) => {
  for (const step of steps) flip(join(out, `checkpoint-${step}`, PART));
};

describe('--resume auto', () => {
  it.each(DAMAGES)(
    'goes past %s to an older checkpoint, says so, and keeps what is damaged',
    async (_, harm, reason) => {
      const { out } = await tune(tiny, config);
      const expected = losses(out);
      harm(join(out, 'checkpoint-8'));
      const shown: string[] = [];
      const progress = { isTTY: false, write: (text: string) => shown.push(text) } as unknown as NodeJS.WriteStream;
      const again = { ...config, out, resume: 'auto' };
      await tune(tiny, again, { dryRun: true, progress });
      expect(shown.join('')).toContain('WARNING: damaged, cannot be resumed from: ');
      expect(aside(out)).toEqual([]); // a dry run moves nothing

      const { summary } = await tune(tiny, again, { progress });
      const [damaged, instead] = summary.notes!;
      expect(damaged).toContain(`WARNING: damaged, cannot be resumed from: ${join(out, 'checkpoint-8')}`);
      expect(damaged).toMatch(reason);
      expect(instead).toContain(`going on from the older ${join(out, 'checkpoint-6')} instead`);
      expect(shown.join('')).toContain(instead);
      expect(losses(out)).toEqual(expected);
      const [folder] = aside(out);
      expect(readdirSync(join(out, folder!))).toEqual(['checkpoint-8']);
      expect(checkpoints(out)).toContain('checkpoint-8'); // written anew
    },
  );

  it('goes past several, and never begins anew by itself', async () => {
    const { out } = await tune(tiny, config);
    const expected = losses(out);
    damage(out, 4, 6, 8);
    const { summary } = await tune(tiny, { ...config, out, resume: 'auto' });
    expect(summary.notes!.filter((note) => note.includes('WARNING: damaged'))).toHaveLength(3);
    expect(losses(out)).toEqual(expected);
    damage(out, 2, 4, 6, 8);
    await expect(tune(tiny, { ...config, out, resume: 'auto' })).rejects.toMatchObject({
      code: 'BAD_CHECKPOINT',
      message: expect.stringMatching(/checkpoint-8\/part.*; .*checkpoint-2\/part.*No other is left to go on from/),
    });
    expect(checkpoints(out).sort()).toEqual(['checkpoint-2', 'checkpoint-4', 'checkpoint-6', 'checkpoint-8']);
    expect(losses(out)).toEqual(expected);
  });

  it('on every rank, whichever finds it', async () => {
    const args = ['finetune', '--model', tiny.model, '--data', tiny.data, '--method', 'full', '--nproc', '2'];
    const out = join(tiny.folder, 'ranks');
    const flags = '--zero 2 --epochs 3 --micro-batch 4 --save-steps 2 --save-total-limit 9 --threads 1'.split(' ');
    const run = (...more: string[]) => shardloop([...args, '--out', out, ...flags, ...more]);
    expect((await run()).code).toBe(0);
    const expected = losses(out);
    damage(out, 8);
    flip(join(out, 'checkpoint-6', 'part-00001.safetensors')); // each rank compares the sums of other files
    const { code, stderr } = await run('--resume', 'auto');
    expect(code, stderr).toBe(0);
    expect(stderr.split('WARNING: damaged')).toHaveLength(3);
    expect(stderr).toContain(`going on from the older ${join(out, 'checkpoint-4')}`);
    expect(losses(out)).toEqual(expected);
  });
});

it('after a restart a damaged checkpoint of the launch gives way to an older one, or to the named one', async () => {
  const place = { RANK: '0', WORLD_SIZE: '1', LOCAL_RANK: '0', LOCAL_WORLD_SIZE: '1' };
  for (const [key, value] of Object.entries({ ...place, SHARDLOOP_LAUNCH_ID: 'own' })) vi.stubEnv(key, value);
  const from = await tune(tiny, { ...config, maxSteps: 3 }); // leaves checkpoint-2
  const named = { ...config, resume: join(from.out, 'checkpoint-2') };
  const { out } = await tune(tiny, named);
  const expected = losses(out);
  vi.stubEnv('TORCHELASTIC_RESTART_COUNT', '1');
  damage(out, 8);
  rmSync(join(out, 'checkpoint-6', 'state.json')); // so that nobody can tell which launch wrote it
  const second = await tune(tiny, { ...named, out });
  expect(second.summary.notes!.join('\n')).toContain(`going on from the older ${join(out, 'checkpoint-4')}`);
  expect(losses(out)).toEqual(expected);
  damage(out, ...checkpoints(out).map((name) => Number(name.slice(11))));
  const third = await tune(tiny, { ...named, out });
  expect(third.summary.notes!.join('\n')).toContain(`going on from the older ${named.resume}`);
  expect(losses(out)).toEqual(expected);
});

describe('a checkpoint that is named', () => {
  const refused = (out: string, resume: string) => {
    const again = tune(tiny, { ...config, out, resume }).catch((error: Error & { code: string }) => error);
    return again.then((error) => {
      if (!(error instanceof Error)) throw new Error('expected a refusal');
      expect(error.code).toBe('BAD_CHECKPOINT');
      return error.message;
    });
  };

  it('and damaged is never left out by itself; the words name another one', async () => {
    const { out } = await tune(tiny, config);
    damage(out, 8);
    for (const name of ['checkpoint-8', 'latest']) {
      const words = await refused(out, join(out, name));
      expect(words).toContain('CRC-32 differs');
      expect(words).toContain(`To go on from another one: resume ${join(out, 'checkpoint-6')}`);
    }
    expect(existsSync(join(out, 'checkpoint-8'))).toBe(true);
    expect(aside(out)).toEqual([]);
  });

  it('and not there is said to be no folder, with what lies beside it', async () => {
    const { out } = await tune(tiny, { ...config, maxSteps: 5 });
    const path = join(out, 'checkpoint-99');
    expect(await refused(out, path)).toContain(
      `${path}: expected a checkpoint's folder, there is no such folder; ${out} holds checkpoint-2, checkpoint-4`,
    );
    expect(await refused(out, join(tiny.model, 'x'))).toContain(`no such folder; ${tiny.model} holds no checkpoint`);
    for (const near of ['nowhere', './nowhere'])
      expect(await refused(out, near)).toContain(`no such folder; ${process.cwd()} holds no checkpoint`);
    expect(await refused(out, '../nowhere')).toContain(`no such folder; ${dirname(process.cwd())} holds no checkpoint`);
    expect(await refused(out, 'no/such')).toContain('there is no such folder; there is no folder no either');
    expect(await refused(out, tiny.data)).toContain("expected a checkpoint's folder, it is a file");
    expect(await refused(out, out)).toContain('expected one checkpoint, it holds several: checkpoint-2, checkpoint-4');
    const none = `expected a checkpoint's folder, such as checkpoint-N, latest or best in a run's folder; this is none: it `;
    expect(await refused(out, tiny.model)).toContain(`${tiny.model}: ${none}holds config.json, `);
    mkdirSync(join(tiny.folder, 'empty'));
    expect(await refused(out, join(tiny.folder, 'empty'))).toContain(`${none}is empty`);
    mkdirSync(join(out, 'checkpoint-7'));
    expect(await refused(out, join(out, 'checkpoint-7'))).toContain('the checkpoint is incomplete');
  });

  it('and not there is said before ranks start, once', async () => {
    const args = [
      'finetune',
      '--model',
      tiny.model,
      '--data',
      tiny.data,
      '--out',
      join(tiny.folder, 'o'),
      '--nproc',
      '2',
    ];
    expect((await shardloop([...args, '--resume', ''])).stderr).toContain('--resume: expected auto or a checkpoint');
    const { code, stderr } = await shardloop([...args, '--resume', 'no/such']);
    expect(code).toBe(1);
    expect(stderr).toBe(
      "shardloop: no/such: expected a checkpoint's folder, there is no such folder; there is no folder no either [BAD_CHECKPOINT]\n",
    );
  });
});
