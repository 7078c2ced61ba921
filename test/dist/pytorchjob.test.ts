// The pods of Kubernetes' PyTorchJob: two processes with nothing but the variables that it sets, as ranks and as hosts of
// `shardloop launch`.
import { writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, it } from 'vitest';
import { program as cli } from '../cli/run.js';
import { launchFolder, type Run, running, SUMS } from './launcher.js';
import { freePort } from './ranks.js';

const folder = launchFolder();

function script(text: string): string {
  const path = join(folder(), 'rank.mjs');
  writeFileSync(path, text);
  return path;
}

/** The environment of a pod: no variable of this process that a launcher could have left. */
function pod(rank: number, port: number, more: Record<string, string> = {}): NodeJS.ProcessEnv {
  const own = Object.entries(process.env).filter(([name]) => /^(PATH|HOME|LD_LIBRARY_PATH|SHARDLOOP_\w+)$/.test(name));
  const set = { MASTER_ADDR: '127.0.0.1', MASTER_PORT: String(port), WORLD_SIZE: '2', RANK: String(rank) };
  return { ...Object.fromEntries(own), ...set, ...more };
}

const elastic = (rank: number, port: number) => ({
  ...{ PET_NNODES: '2', PET_NODE_RANK: String(rank), PET_NPROC_PER_NODE: '1' },
  ...{ PET_MASTER_ADDR: '127.0.0.1', PET_MASTER_PORT: String(port) },
});

async function expectSums(runs: Run[]): Promise<void> {
  for (const [rank, run] of runs.entries()) {
    expect(await run.ended, run.err()).toBe(0);
    expect(run.out()).toContain(`sum 3 rank ${rank} of 2;`);
  }
}

it('two pods are two ranks', async () => {
  const port = await freePort();
  const path = script(`${SUMS} await group.destroy();`);
  await expectSums([0, 1].map((rank) => running(process.execPath, [path], pod(rank, port))));
});

it("two pods are two hosts of a launch that reads torchrun's defaults", async () => {
  const port = await freePort();
  const path = script(`${SUMS} await group.destroy();`);
  const args = [cli, 'launch', path];
  await expectSums([0, 1].map((rank) => running(process.execPath, args, pod(rank, port, elastic(rank, port)))));
});

it('--standalone does without them, and a flag goes before a variable', async () => {
  const port = await freePort();
  const path = script(`console.log([process.env.WORLD_SIZE, process.env.MASTER_PORT === "${port}"].join());`);
  const args = [cli, 'launch', '--standalone', '--nproc-per-node', '2', path];
  const run = running(process.execPath, args, pod(1, port, { ...elastic(1, port), PET_NPROC_PER_NODE: 'auto' }));
  expect(await run.ended, run.err()).toBe(0);
  expect(run.out().trim().split('\n').sort()).toEqual(['[0] 2,false', '[1] 2,false']);
});

it('says which variable is no number', async () => {
  const env = pod(0, 1, { PET_NPROC_PER_NODE: 'auto' });
  const run = running(process.execPath, [cli, 'launch', script('')], env);
  expect(await run.ended).toBe(2);
  expect(run.err()).toContain("value 'auto' from env 'PET_NPROC_PER_NODE' is invalid");
});
