// A pretraining run of which one rank after another is killed (SIGKILL) while it trains, and that the launcher starts
// again each time: it must end with the losses and the weights of an undisturbed run, bit for bit. restarts.test.ts does
// a short one, the soak a long one.
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { listCheckpoints, openCheckpoint } from '../../lib/io/index.js';
import { program } from '../cli/run.js';
import { running } from '../dist/launcher.js';
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

const rankOfKill = ({ seed, ranks }: RestartPlan, i: number) => (seed + i) % ranks;

/**
 * What every rank loads first. Rank 0 kills the rank whose turn it is as it shows the step that is due, so that it does
 * not matter how fast anything is; the others are somewhere in that step or the next one.
 */
const killer = (folder: string, plan: RestartPlan, kills: number) => `
  import { readFileSync, writeFileSync } from 'node:fs';
  const { RANK, TORCHELASTIC_RESTART_COUNT } = process.env;
  const attempt = Number(TORCHELASTIC_RESTART_COUNT);
  const file = (rank) => ${JSON.stringify(join(folder, 'pid-'))} + attempt + '-' + rank;
  if (RANK !== undefined) writeFileSync(file(RANK), String(process.pid));
  const victim = ${JSON.stringify(Array.from({ length: kills }, (_, i) => rankOfKill(plan, i)))}[attempt];
  if (RANK === '0' && victim !== undefined) {
    const write = process.stderr.write.bind(process.stderr);
    process.stderr.write = (text, ...more) => {
      const done = write(text, ...more);
      if (String(text).includes(' step ' + ${plan.every} * (attempt + 1) + '/'))
        process.kill(Number(readFileSync(file(victim), 'utf8')), 'SIGKILL');
      return done;
    };
  }`;

const stepsOf = (text: string) => [...text.matchAll(/ step (\d+)\//g)].map(([, step]) => Number(step));

/** Both runs, one after the other; the killed one is restarted as often as it is killed. `log` gets a line for each kill. */
export async function restartedRun(plan: RestartPlan, log: (line: string) => void = () => {}): Promise<RestartOutcome> {
  const { steps, every, ranks, seed } = plan;
  const folder = mkdtempSync(join(tmpdir(), 'shardloop-restarts-'));
  const kills = Math.ceil(steps / every) - 1;
  const faults: string[] = [];
  const start = (name: string, node: string[], more: string[]) =>
    running(process.execPath, [
      ...[...node, program, 'pretrain', '--data', corpus, '--out', join(folder, name), ...`${SHAPE} ${WAY}`.split(' ')],
      ...['--max-steps', steps, '--nproc', ranks, '--seed', seed].map(String),
      ...more,
    ]);
  try {
    const undisturbed = start('undisturbed', [], []);
    if ((await undisturbed.ended) !== 0) faults.push(`the undisturbed run failed: ${undisturbed.err()}`);

    const script = join(folder, 'killer.mjs');
    writeFileSync(script, killer(folder, plan, kills));
    const run = start('killed', ['--import', script], ['--max-restarts', String(kills)]);
    const attempts = () => run.err().split(/\[launch\] restart \d+ of \d+: /);
    let told = 0;
    run.child.stderr!.on('data', () => {
      for (const restarts = attempts().length - 1; told < restarts; told++)
        log(`kill ${told + 1} of ${kills}: rank ${rankOfKill(plan, told)} at step ${every * (told + 1)}`);
    });
    const code = await run.ended;
    if (code !== 0) faults.push(`the killed run ended with ${code}: ${run.err()}`);
    const [, ...later] = attempts();
    for (let i = 0; i < kills; i++) {
      const rank = rankOfKill(plan, i);
      const words = new RegExp(`because rank ${rank} \\(local rank ${rank}, pid \\d+\\) failed first: signal SIGKILL`);
      if (!words.test(later[i] ?? '')) faults.push(`restart ${i + 1}: expected ${words}, received: ${later[i]}`);
    }
    const seen = attempts().map(stepsOf);
    const repeated = seen.slice(1).reduce((sum, steps, i) => sum + Math.max(0, seen[i]!.at(-1)! - steps[0]! + 1), 0);
    faults.push(...(await differences(join(folder, 'undisturbed'), join(folder, 'killed'), steps)));
    const [expected, received] = ['undisturbed', 'killed'].map((name) => losses(join(folder, name)).at(-1)!);
    return { kills: later.length, faults, repeated, loss: [expected!, received!] };
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
