// Real launchers start our ranks unchanged: Slurm's srun and sbatch, Open MPI's mpirun, and `shardloop launch` on two hosts
// (network namespaces). What this machine lacks is skipped aloud; .ci/run installs it. torchrun stands in torchrun.test.ts.
import { execFileSync } from 'node:child_process';
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, afterEach, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { program as cli } from '../cli/run.js';
import { alive, launchFolder, numbers, type Run, running, SUMS, until } from '../dist/launcher.js';
import { freePort } from '../dist/ranks.js';
import { type HostPair, hostPair } from './namespaces.js';
import { type Slurm, startSlurm } from './slurm.js';

const folder = launchFolder();
const LEAVES = 'await group.destroy();';

function script(text: string): string {
  const path = join(folder(), `rank-${Math.random().toString(36).slice(2)}.mjs`);
  writeFileSync(path, text);
  return path;
}

const has = (program: string): boolean => {
  try {
    execFileSync('sh', ['-c', `command -v ${program}`], { stdio: 'ignore' });
    return true;
  } catch {
    return false;
  }
};
const isRoot = process.getuid?.() === 0;

/** Why the tests of a launcher are skipped, or null; said aloud once. */
function skipping(what: string, reason: string | null): string | null {
  if (reason !== null) console.warn(`SKIPPED: ${what}: ${reason}`);
  return reason;
}
const missing = (programs: string[], packages: string): string | null => {
  const absent = programs.filter((name) => !has(name));
  return absent.length === 0 ? null : `${absent.join(', ')} not found; Debian: apt-get install ${packages}`;
};

/** All ranks of a launch said the sum, and the launcher was content. */
async function expectSums(run: Run, size = 2): Promise<void> {
  expect(await run.ended, `${run.out()}\n${run.err()}`).toBe(0);
  const sum = (size * (size + 1)) / 2;
  for (let rank = 0; rank < size; rank++) expect(run.out()).toContain(`sum ${sum} rank ${rank} of ${size};`);
}

describe('Slurm', () => {
  const absent = missing(['srun', 'sbatch', 'slurmd', 'slurmctld', 'munged'], 'slurm-wlm munge');
  const reason = skipping('Slurm', absent ?? (isRoot ? null : 'slurmd needs root'));
  let slurm: Slurm | undefined;
  beforeAll(async () => {
    if (reason === null) slurm = await startSlurm();
  });
  afterAll(async () => await slurm?.stop());
  beforeEach((context) => context.skip(reason !== null, reason ?? ''));
  const env = () => ({ ...process.env, ...slurm!.env });

  it('srun starts two ranks', async () => {
    const path = script(
      `${SUMS} console.log('task ' + process.env.SLURM_PROCID + ' is ' + group.rank + ';'); ${LEAVES}`,
    );
    const run = running('srun', ['--ntasks=2', '--overcommit', process.execPath, path], env());
    await expectSums(run);
    for (const rank of [0, 1]) expect(run.out()).toContain(`task ${rank} is ${rank};`);
  });

  it('two steps of one batch script are two launches', async () => {
    const rank = `srun --ntasks=2 --overcommit ${process.execPath} ${script(SUMS + LEAVES)}`;
    const batch = join(slurm!.folder, 'batch.sh');
    const output = join(slurm!.folder, 'batch.out');
    writeFileSync(batch, `#!/bin/sh\n${rank} && ${rank}\n`);
    const run = running('sbatch', ['--wait', '--ntasks=2', '--overcommit', `--output=${output}`, batch], env());
    expect(await run.ended, run.err()).toBe(0);
    const text = readFileSync(output, 'utf8');
    for (const rank of [0, 1]) expect(text.split(`sum 3 rank ${rank} of 2;`)).toHaveLength(3);
  });

  it('a batch script is one process, whatever number of tasks it has', async () => {
    const batch = join(slurm!.folder, 'alone.sh');
    const output = join(slurm!.folder, 'alone.out');
    writeFileSync(batch, `#!/bin/sh\n${process.execPath} ${script(SUMS + LEAVES)}\n`);
    const run = running('sbatch', ['--wait', '--ntasks=2', '--overcommit', `--output=${output}`, batch], env());
    expect(await run.ended, run.err()).toBe(0);
    expect(readFileSync(output, 'utf8')).toContain('sum 1 rank 0 of 1;');
  });
});

describe('Open MPI', () => {
  const reason = skipping('Open MPI', missing(['mpirun'], 'openmpi-bin'));
  beforeEach((context) => context.skip(reason !== null, reason ?? ''));
  const env = { ...process.env, OMPI_ALLOW_RUN_AS_ROOT: '1', OMPI_ALLOW_RUN_AS_ROOT_CONFIRM: '1' };

  it('mpirun starts two ranks', async () => {
    const path = script(
      `${SUMS} console.log('process ' + process.env.OMPI_COMM_WORLD_RANK + ' is ' + group.rank + ';'); ${LEAVES}`,
    );
    const run = running('mpirun', ['--oversubscribe', '-n', '2', process.execPath, path], env);
    await expectSums(run);
    for (const rank of [0, 1]) expect(run.out()).toContain(`process ${rank} is ${rank};`);
  });

  it('two launches at once do not meet each other', async () => {
    const args = ['--oversubscribe', '-n', '2', process.execPath, script(SUMS + LEAVES)];
    const runs = [running('mpirun', args, env), running('mpirun', args, env)];
    for (const run of runs) await expectSums(run);
  });
});

describe('shardloop launch on two hosts', () => {
  let reason: string | null = null;
  let hosts: HostPair | undefined;
  try {
    hostPair().remove();
  } catch (error) {
    const text = String((error as { stderr?: unknown }).stderr ?? (error as Error).message).trim();
    reason = missing(['ip'], 'iproute2') ?? `no network namespaces here (${text})`;
  }
  skipping('two hosts as network namespaces', reason);
  beforeEach((context) => {
    context.skip(reason !== null, reason ?? '');
    hosts = hostPair();
  });
  afterEach(() => {
    hosts?.remove();
    hosts = undefined;
  });

  async function start(path: string, ...flags: string[]): Promise<[Run, Run]> {
    const port = await freePort();
    const place = ['--nnodes', '2', '--master-addr', hosts!.addresses[0], '--master-port', String(port)];
    return [0, 1].map((node) => {
      const args = ['launch', ...place, '--node-rank', String(node), '--nproc-per-node', '1', ...flags, path];
      return running(...hosts!.on(node, process.execPath, cli, ...args));
    }) as [Run, Run];
  }
  const WAITS = `${SUMS}
    console.log('ready ' + process.pid);
    if (group.rank === 0) setInterval(() => {}, 1000); else await group.barrier().done();`;
  const ready = (runs: [Run, Run]) => until(() => runs.every((run) => run.out().includes('ready')));

  it('reduces over both', async () => {
    const runs = await start(script(SUMS + LEAVES));
    for (const [rank, run] of runs.entries()) {
      expect(await run.ended, run.err()).toBe(0);
      expect(run.out()).toContain(`[${rank}] sum 3 rank ${rank} of 2;`);
    }
  });

  it('starts again on both', async () => {
    const path = script(`${SUMS}
      if (process.env.TORCHELASTIC_RESTART_COUNT === '0') {
        if (group.rank === 1) process.kill(process.pid, 'SIGKILL');
        await group.barrier().done();
      }
      ${LEAVES}`);
    const runs = await start(path, '--max-restarts', '1');
    for (const [rank, run] of runs.entries()) {
      expect(await run.ended, run.err()).toBe(0);
      expect(run.out().split(`sum 3 rank ${rank} of 2;`)).toHaveLength(3);
      expect(run.err()).toMatch(/restart 1 of 1: all 2 ranks start again, because rank 1 .* signal SIGKILL/);
    }
  });

  it.each([0, 1])('ends on the other with a named error when the launcher of node %i is killed', async (node) => {
    const runs = await start(script(WAITS));
    await ready(runs);
    runs[node]!.child.kill('SIGKILL');
    const other = runs[1 - node]!;
    expect(await other.ended).toBe(1);
    expect(other.err()).toMatch(/\[launch\] .*(disappeared|is gone|failed first)/);
    const pids = runs.flatMap((run) => numbers(run.out(), /ready (\d+)/g));
    await until(() => !pids.some(alive), 10);
  });
});
