// Kill -9 in the middle of training and saving, over and over: after each the folder holds only sound checkpoints, and
// the run that goes on to the end has the losses of an undisturbed one. kills.test.ts does it a few times, the soak fifty.
import { type ChildProcess, spawn } from 'node:child_process';
import { readdirSync, rmSync } from 'node:fs';
import { basename, join } from 'node:path';
import { listCheckpoints, openCheckpoint } from '../../lib/io/index.js';
import { program } from '../cli/run.js';
import { freePort } from '../dist/ranks.js';
import { losses, makeTiny } from './tiny.js';

/** One rank of a run. */
export interface RankProcess {
  readonly child: ChildProcess;
  readonly ended: Promise<number | null>;
  err(): string;
}

/**
 * Starts `shardloop ARGS` as ranks without a launcher, so that they can be killed at once. `limit[rank]` is the most KiB
 * that a file of this rank may have.
 */
export async function startRanks(
  size: number,
  args: string[],
  limit: Record<number, number> = {},
): Promise<RankProcess[]> {
  const port = String(await freePort());
  return Array.from({ length: size }, (_, rank) => {
    const place = { RANK: rank, LOCAL_RANK: rank, WORLD_SIZE: size, LOCAL_WORLD_SIZE: size };
    const env = Object.fromEntries(Object.entries(place).map(([key, value]) => [key, String(value)]));
    const line = limit[rank] ? `ulimit -f ${limit[rank]}; exec "$@"` : 'exec "$@"';
    const child = spawn('bash', ['-c', line, 'rank', process.execPath, program, ...args], {
      env: { ...process.env, ...env, MASTER_ADDR: '127.0.0.1', MASTER_PORT: port },
      stdio: ['ignore', 'ignore', 'pipe'],
    });
    let text = '';
    child.stderr!.on('data', (chunk) => {
      text += chunk;
    });
    return { child, ended: new Promise((resolve) => child.once('close', resolve)), err: () => text };
  });
}

const RUN =
  '--epochs 40 --micro-batch 4 --zero 2 --lora-dropout 0.1 --lr 1e-2 --threads 1 --log-steps 1 --save-total-limit 3';

/** Kills `kills` times at random moments; returns what was wrong, and how many kills met a save that was under way. */
export async function killRuns(
  kills: number,
  seed: number,
  log: (line: string) => void = () => {},
): Promise<{ faults: string[]; midSave: number }> {
  const tiny = await makeTiny();
  const faults: string[] = [];
  let state = seed;
  const random = (below: number) => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return (state / 2 ** 32) * below;
  };
  const start = (out: string, flags: string) =>
    startRanks(2, [
      'finetune',
      '--model',
      tiny.model,
      '--data',
      tiny.data,
      '--out',
      out,
      ...`${RUN} ${flags}`.split(' '),
    ]);
  const toTheEnd = async (out: string, flags: string) => {
    const ranks = await start(out, flags);
    const codes = await Promise.all(ranks.map(({ ended }) => ended));
    if (codes.some((code) => code !== 0))
      faults.push(`a run ended with ${codes}: ${ranks.map((r) => r.err()).join('')}`);
    return losses(out);
  };

  const expected = await toTheEnd(join(tiny.folder, 'undisturbed'), '--save-steps 50');
  let out = join(tiny.folder, 'killed-0');
  let before = 0;
  let done = 0;
  let midSave = 0;
  while (done < kills && faults.length === 0) {
    const background = random(3) < 2 ? `--save-background --save-throttle-mb ${(0.2 + random(3)).toFixed(2)}` : '';
    const ranks = await start(out, `--save-steps 1 --resume auto ${background}`.trim());
    const ended = Promise.all(ranks.map((rank) => rank.ended)).then(() => 'ended' as const);
    const firstStep = new Promise<'step'>((resolve) => {
      ranks[0]!.child.stderr!.on('data', () => ranks[0]!.err().includes(' step ') && resolve('step'));
    });
    const wait = random(1200);
    const how = await Promise.race([ended, firstStep]);
    if (how === 'step') await new Promise((resolve) => setTimeout(resolve, wait));
    const alive = ranks.filter(({ child }) => child.exitCode === null && child.signalCode === null);
    for (const { child } of alive) child.kill('SIGKILL');
    await ended;
    const errors = ranks.filter(({ child }) => (child.exitCode ?? 0) !== 0).map((rank) => rank.err());
    if (alive.length === ranks.length) done++;
    else if (errors.length > 0 && alive.length === 0) faults.push(`a run failed by itself: ${errors.join('')}`);
    if (readdirSync(out).some((name) => /^\.checkpoint-.*\.tmp/.test(name))) midSave++;
    const found = await listCheckpoints(out);
    for (const path of found) {
      await openCheckpoint(path).then(
        (checkpoint) => checkpoint.close(),
        (error: Error) => faults.push(`after kill ${done}: ${error.message}`),
      );
    }
    const newest = Number(/\d+$/.exec(basename(found.at(-1) ?? '-0'))![0]);
    if (newest < before) faults.push(`after kill ${done}: checkpoint-${before} was there, now the newest is ${newest}`);
    log(`kill ${done} of ${kills}, ${wait.toFixed(0)} ms behind the first step, newest checkpoint ${newest}`);
    before = newest;
    if (newest >= expected.length - 2 && done < kills) {
      compare(await toTheEnd(out, '--resume auto'), expected, faults);
      out = join(tiny.folder, `killed-${done}`);
      before = 0;
    }
  }
  compare(await toTheEnd(out, '--resume auto'), expected, faults);
  rmSync(tiny.folder, { recursive: true });
  return { faults, midSave };
}

function compare(received: number[], expected: number[], faults: string[]): void {
  const same = received.length === expected.length && received.every((loss, i) => loss === expected[i]);
  if (!same) faults.push(`expected the losses of the undisturbed run, received ${received.length} others`);
}
