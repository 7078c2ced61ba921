// `--max-restarts` of the training commands: a rank that is killed in mid-run costs the steps since the last checkpoint,
// and nothing else.
import { readdirSync, readFileSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { running } from '../dist/launcher.js';
import { losses, makeTiny, metricsOf, type Tiny } from '../train/tiny.js';
import { program } from './run.js';

let tiny: Tiny;
let runs = 0;
beforeAll(async () => {
  tiny = await makeTiny();
});
afterAll(() => rmSync(tiny.folder, { recursive: true }));

const fresh = () => join(tiny.folder, `run-${runs++}`);
const FLAGS = '--epochs 20 --log-steps 1 --lora-dropout 0.1 --threads 1 --lr 1e-2 --save-steps 4'.split(' ');

/** The process that the launcher `parent` started as a rank. */
function pidOf(parent: number, rank: number): number | undefined {
  for (const name of readdirSync('/proc').filter((entry) => /^\d+$/.test(entry))) {
    try {
      const [, ppid] = /\) \S+ (\d+) /.exec(readFileSync(`/proc/${name}/stat`, 'utf8')) ?? [];
      const variables = readFileSync(`/proc/${name}/environ`, 'utf8').split('\0');
      if (Number(ppid) === parent && variables.includes(`RANK=${rank}`)) return Number(name);
    } catch {
      // it ended meanwhile
    }
  }
  return undefined;
}

/** Tunes; when `at` shows up on stderr for the first time, `rank` is killed. */
async function tune(out: string, flags: string[], kill?: { rank: number; at: string }) {
  const args = ['finetune', '--model', tiny.model, '--data', tiny.data, '--out', out, ...FLAGS, ...flags];
  const run = running(process.execPath, [program, ...args]);
  let killed = false;
  run.child.stderr!.on('data', () => {
    if (killed || !kill || !run.err().includes(kill.at)) return;
    const pid = pidOf(run.child.pid!, kill.rank);
    killed = pid !== undefined;
    if (pid !== undefined) process.kill(pid, 'SIGKILL');
  });
  const code = await run.ended;
  return { code, stderr: run.err(), after: run.err().split('[launch] restart 1 of ')[1] };
}

describe('--max-restarts', () => {
  const undisturbed: Record<string, Promise<number[]>> = {};
  const whole = (nproc: string): Promise<number[]> => {
    undisturbed[nproc] ??= (async () => {
      const out = fresh();
      expect((await tune(out, ['--nproc', nproc])).code).toBe(0);
      return losses(out);
    })();
    return undisturbed[nproc];
  };

  it.each([
    ['2', 1],
    ['2', 0],
    ['1', 0],
  ])('with %s ranks, of which rank %i is killed, gives the losses of an undisturbed run', async (nproc, rank) => {
    const expected = await whole(nproc);
    const out = fresh();
    const { code, stderr, after } = await tune(out, ['--nproc', nproc, '--max-restarts', '1'], { rank, at: 'step 7/' });
    expect(code, stderr).toBe(0);
    expect(stderr).toContain(`restart 1 of 1: all ${nproc} ranks start again, because rank ${rank} `);
    expect(after).toContain('signal SIGKILL');
    expect(stderr).not.toContain('with a checkpoint'); // nobody can write one without the rank that is gone
    expect(after).not.toMatch(/step [1-4]\//); // it went on from checkpoint-4, or a later one
    expect(losses(out)).toEqual(expected);
    expect(metricsOf(out).map((m) => m.step)).toEqual(expected.map((_, i) => i + 1));
  });

  it('goes on from its own checkpoints only, whatever else lies in the folder', async () => {
    const out = fresh();
    expect((await tune(out, ['--nproc', '2', '--max-steps', '9'])).code).toBe(0);
    expect(readdirSync(out)).toContain('checkpoint-8');
    const resume = ['--resume', join(out, 'checkpoint-4')];
    const flags = ['--nproc', '2', '--save-steps', '50', '--max-restarts', '1', '--max-steps', '12', ...resume];
    const { code, stderr, after } = await tune(out, flags, { rank: 1, at: 'step 6/' });
    expect(code, stderr).toBe(0);
    expect(after).toContain('step 5/'); // not from checkpoint-8, which belongs to what was left behind
    expect(metricsOf(out).map((m) => m.step)).toEqual(Array.from({ length: 12 }, (_, i) => i + 1));
  });

  it('does not start again behind bad options', async () => {
    const bad = await tune(fresh(), ['--nproc', '2', '--max-restarts', '3', '--target-modules', 'q_proj']);
    expect(bad.code).toBe(2);
    expect(bad.stderr).toContain('[launch] no restart: exit code 2 is a usage error');
  });
});
