// `npm run soak`: the long forms of what the tests do shortly: 100,000 fuzzed calls of the bridge in child processes, ten
// thousand training steps with flat memory, every fault between ranks ten times, fifty kills in the middle of training
// and saving, and 2,000 steps on four ranks of which one is killed every 300. A death names its seed and its call.
// Options: --calls N, --seed N, --steps N, --faults N, --kills N, --restart-steps N, --restart-every N, --only REGEX (of
// op names); 0 leaves a part out.
import { parseArgs } from 'node:util';
import { FAULTS, faultsOf, runFault } from '../test/dist/faults.js';
import { type Run, runChild, runTraining } from '../test/fuzz/runner.js';
import { faultsOfOutcome, faultsOfTrace } from '../test/fuzz/verdict.js';
import { killRuns } from '../test/train/kills.js';
import { restartedRun } from '../test/train/restarts.js';

const { values } = parseArgs({
  options: {
    calls: { type: 'string', default: '100000' },
    seed: { type: 'string', default: '1' },
    steps: { type: 'string', default: '10000' },
    faults: { type: 'string', default: '10' },
    kills: { type: 'string', default: '50' },
    'restart-steps': { type: 'string', default: '2000' },
    'restart-every': { type: 'string', default: '300' },
    only: { type: 'string', default: '' },
  },
});
const PER_CHILD = 10_000;

const faults: string[] = [];
let made = 0;
let succeeded = 0;
for (let seed = Number(values.seed); made < Number(values.calls); seed++) {
  const calls = Math.min(PER_CHILD, Number(values.calls) - made);
  const run: Run = await runChild(seed, calls, values.only);
  made += calls;
  succeeded += run.outcome?.succeeded ?? 0;
  const found = faultsOfOutcome(run);
  faults.push(...found);
  console.log(
    `seed ${seed}: ${run.outcome ? JSON.stringify(run.outcome.errors) : run.how}${found.length ? ' FAULT' : ''}`,
  );
  for (const fault of found) console.log(`  ${fault}`);
}
console.log(`${made} calls, ${succeeded} of them successful, ${faults.length} faults`);

const steps = Number(values.steps);
if (steps > 0) {
  const trace = await runTraining(steps);
  const found = faultsOfTrace(trace);
  faults.push(...found);
  const mb = (bytes: number | undefined) => `${((bytes ?? 0) / 2 ** 20).toFixed(0)} MB`;
  console.log(
    `${steps} training steps: ${trace.handles[0]} to ${trace.handles.at(-2)} live tensors, resident ` +
      `${mb(trace.resident[1])} to ${mb(trace.resident.at(-1))}`,
  );
  for (const fault of found) console.log(`  ${fault}`);
}

for (let i = 0; i < Number(values.faults); i++) {
  for (const fault of FAULTS) {
    for (const backend of ['gloo', 'shm'] as const) {
      const found = faultsOf(await runFault(fault, backend), 1).map((text) => `${backend}: ${text}`);
      faults.push(...found);
      for (const text of found) console.log(`  ${text}`);
    }
  }
  console.log(`faults between ranks, round ${i + 1} of ${values.faults}`);
}
if (Number(values.kills) > 0) {
  const killed = await killRuns(Number(values.kills), Number(values.seed), console.log);
  faults.push(...killed.faults);
  for (const fault of killed.faults) console.log(`  ${fault}`);
  console.log(
    `${values.kills} kills, ${killed.midSave} of them in the middle of a save, ${killed.faults.length} faults`,
  );
}
const restartSteps = Number(values['restart-steps']);
if (restartSteps > 0) {
  const plan = { steps: restartSteps, every: Number(values['restart-every']), ranks: 4, seed: Number(values.seed) };
  const began = performance.now();
  const run = await restartedRun(plan, console.log);
  faults.push(...run.faults);
  for (const fault of run.faults) console.log(`  ${fault}`);
  console.log(
    `${restartSteps} steps on ${plan.ranks} ranks, ${run.kills} kills, each with a restart: ${run.repeated} steps trained again, final ` +
      `loss ${run.loss[1]}, undisturbed ${run.loss[0]}, ${run.faults.length} faults, ` +
      `${((performance.now() - began) / 1000).toFixed(0)} s for both runs`,
  );
}
if (faults.length > 0) process.exitCode = 1;
