// A pretraining run of which one rank after another is killed (SIGKILL) while it trains, and that the launcher starts
// again each time: it must end with the losses and the weights of an undisturbed run, bit for bit. restarts.test.ts does
// a short one, the soak a long one.
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { listCheckpoints, openCheckpoint } from '../../lib/io/index.js';
import { program } from '../cli/run.js';
import { rankPid, running } from '../dist/launcher.js';
import { losses, metricsOf } from './tiny.js';

export interface RestartPlan {
  readonly steps: number;
  /** A rank is killed when every so many steps are done, and not behind the last one. */
  readonly every: number;
  readonly ranks: number;
  readonly seed: number;
}

export interface RestartOutcome {
  readonly kills: number;
  readonly faults: string[];
  /** Steps that were trained again, over all restarts. */
  readonly repeated: number;
  /** The final loss of the undisturbed run, and of the other. */
  readonly loss: readonly [expected: number, received: number];
}

const corpus = fileURLToPath(new URL('../../examples/data/corpus.txt', import.meta.url));
const SHAPE = '--layers 2 --heads 2 --width 32 --seq-len 32 --dropout 0.1 --micro-batch 2 --epochs 1000 --threads 1';
const WAY = '--zero 3 --lr 3e-3 --log-steps 1 --save-steps 11 --save-background';

const stepsOf = (text: string) => [...text.matchAll(/ step (\d+)\//g)].map(([, step]) => Number(step));

/** Both runs, one after the other; the killed one is restarted as often as it is killed. `log` gets a line for each kill. */
export async function restartedRun(plan: RestartPlan, log: (line: string) => void = () => {}): Promise<RestartOutcome> {
  const { steps, every, ranks, seed } = plan;
  const folder = mkdtempSync(join(tmpdir(), 'shardloop-restarts-'));
  const kills = Math.ceil(steps / every) - 1;
  const faults: string[] = [];
  const rankOfKill = (i: number) => (seed + i) % ranks;
  const start = (name: string, more: readonly string[]) =>
    running(process.execPath, [
      ...[program, 'pretrain', '--data', corpus, '--out', join(folder, name), ...`${SHAPE} ${WAY}`.split(' ')],
      ...['--max-steps', steps, '--nproc', ranks, '--seed', seed].map(String),
      ...more,
    ]);
  try {
    const undisturbed = start('undisturbed', []);
    if ((await undisturbed.ended) !== 0) faults.push(`the undisturbed run failed: ${undisturbed.err()}`);

    const run = start('killed', ['--max-restarts', String(kills)]);
    const attempts = () => run.err().split(/\[launch\] restart \d+ of \d+: /);
    const pids: number[] = [];
    run.child.stderr!.on('data', () => {
      if (pids.length === kills || faults.length > 0) return;
      const attempt = attempts()[pids.length]; // none until the launcher has started all ranks again
      const step = stepsOf(attempt ?? '').at(-1) ?? 0;
      if (step < every * (pids.length + 1)) return;
      const rank = rankOfKill(pids.length);
      const pid = rankPid(run.child.pid!, rank);
      if (pid === undefined) return void faults.push(`rank ${rank} was not found behind step ${step}`);
      process.kill(pid, 'SIGKILL');
      pids.push(pid);
      log(`kill ${pids.length} of ${kills}: rank ${rank} behind step ${step}`);
    });
    const code = await run.ended;
    if (code !== 0) faults.push(`the killed run ended with ${code}: ${run.err()}`);
    const [, ...later] = attempts();
    for (const [i, pid] of pids.entries()) {
      const rank = rankOfKill(i);
      const words = `because rank ${rank} (local rank ${rank}, pid ${pid}) failed first: signal SIGKILL`;
      if (!later[i]?.includes(words)) faults.push(`expected restart ${i + 1} "${words}", received: ${later[i]}`);
    }
    const seen = attempts().map(stepsOf);
    const repeated = seen.slice(1).reduce((sum, steps, i) => sum + Math.max(0, seen[i]!.at(-1)! - steps[0]! + 1), 0);
    if (pids.length < kills) faults.push(`expected ${kills} kills, received ${pids.length}`);
    faults.push(...(await differences(join(folder, 'undisturbed'), join(folder, 'killed'), steps)));
    const [expected, received] = ['undisturbed', 'killed'].map((name) => losses(join(folder, name)).at(-1)!);
    return { kills: pids.length, faults, repeated, loss: [expected!, received!] };
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** What of `received` is not as in `expected`: every step's loss, the result's weights, and whether checkpoints are sound. */
async function differences(expected: string, received: string, steps: number): Promise<string[]> {
  const faults: string[] = [];
  const numbers = metricsOf(received).map(({ step }) => step);
  if (numbers.length !== steps || numbers.some((step, i) => step !== i + 1))
    faults.push(`expected metrics of steps 1 to ${steps}, each once, received ${numbers}`);
  const [right, found] = [losses(expected), losses(received)];
  const first = right.findIndex((loss, i) => loss !== found[i]);
  if (first >= 0) faults.push(`step ${first + 1}: expected the loss ${right[first]}, received ${found[first]}`);
  const weights = (out: string) => readFileSync(join(out, 'model', 'model.safetensors'));
  if (!weights(expected).equals(weights(received)))
    faults.push('the final weights are not those of the undisturbed run');
  for (const path of await listCheckpoints(received)) {
    await openCheckpoint(path).then(
      (checkpoint) => checkpoint.close(),
      (error: Error) => faults.push(error.message),
    );
  }
  const leftovers = readdirSync(received).filter((name) => name.startsWith('.') || name.startsWith('before-'));
  if (leftovers.length > 0) faults.push(`expected no leftovers in the folder, received ${leftovers}`);
  return faults;
}
