// torchrun starts our ranks unchanged (`torchrun --no-python`), whether its agent serves the store or rank 0 does, reads the
// error file that they leave, and restarts them.
import { execFile } from 'node:child_process';
import { existsSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { pythonPath } from './python.js';

const INDEX = new URL('../../dist/dist/index.js', import.meta.url).href;
const CORE = new URL('../../dist/core/index.js', import.meta.url).href;
const BENCH = fileURLToPath(new URL('../../dist/cli/index.js', import.meta.url));
let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'shardloop-test-torchrun-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

interface Ended {
  code: number;
  out: string;
  err: string;
}

function torchrun(flags: string[], program: string, env: Record<string, string | undefined> = {}): Promise<Ended> {
  const script = join(folder, 'rank.mjs');
  writeFileSync(script, program);
  return start(flags, [script], env);
}

function start(flags: string[], command: string[], env: Record<string, string | undefined> = {}): Promise<Ended> {
  const binary = join(dirname(pythonPath()), 'torchrun');
  expect(existsSync(binary)).toBe(true);
  return new Promise((resolve) => {
    const args = [...flags, '--no-python', process.execPath, ...command];
    execFile(binary, args, { timeout: 100_000, env: { ...process.env, ...env } }, (error, out, err) => {
      resolve({ code: error === null ? 0 : Number(error.code ?? 1), out, err });
    });
  });
}

const reduces = `
  import { init } from '${INDEX}';
  import { tensor } from '${CORE}';
  const group = await init({ timeoutSeconds: 60 });
  const t = tensor([group.rank + 1]);
  await group.allReduce(t).done();
  console.log('sum ' + t.itemSync() + ' of ' + group.size + ' agent ' + process.env.TORCHELASTIC_USE_AGENT_STORE + ';');
  await group.destroy();`;

describe('torchrun', () => {
  it.each([
    ['--standalone', {}, 'True', ['--standalone', '--nproc-per-node=2']],
    ['--standalone', { TORCH_DISABLE_SHARE_RDZV_TCP_STORE: '1' }, 'False', ['--standalone', '--nproc-per-node=2']],
    ['a static rendezvous', {}, 'True', ['--nproc-per-node=2', '--master-addr=127.0.0.1', '--master-port=29741']],
  ])('starts two ranks with %s and %j (the agent serves the store: %s)', async (_, env, agent, flags) => {
    const { code, out, err } = await torchrun(flags, reduces, env);
    expect(err).not.toContain('Error');
    expect(code).toBe(0);
    expect(out.split(`sum 3 of 2 agent ${agent};`)).toHaveLength(3);
  });

  it('reads what our failing rank left in its error file', async () => {
    const program = `
      import { init } from '${INDEX}';
      const group = await init({ timeoutSeconds: 60 });
      await group.barrier().done();
      if (group.rank === 1) throw new RangeError('the learning rate is a banana');
      await group.barrier().done();`;
    const { code, err } = await torchrun(['--standalone', '--nproc-per-node=2'], program);
    expect(code).toBe(1);
    expect(err).toContain('RangeError: the learning rate is a banana');
    expect(err).toMatch(/Root Cause[\s\S]*rank\s*: 1 \(local_rank: 1\)/);
  });

  it('restarts the ranks into a fresh set of keys', async () => {
    const program = `${reduces}
      if (process.env.TORCHELASTIC_RESTART_COUNT === '0') process.exit(1);`;
    const { code, out } = await torchrun(['--standalone', '--nproc-per-node=2', '--max-restarts=1'], program);
    expect(code).toBe(0);
    expect(out.match(/sum 3 of 2/g)!.length).toBeGreaterThanOrEqual(3);
  });

  it('starts `shardloop bench`, which joins and prints on rank 0 only', async () => {
    const bench = [BENCH, 'bench', 'all_reduce', '-b', '1K', '-e', '4K', '-n', '3'];
    const { code, out } = await start(['--standalone', '--nproc-per-node=2'], bench);
    expect(code).toBe(0);
    expect(out.match(/# shardloop bench all_reduce: 2 ranks, shm/g)).toHaveLength(1);
    expect(out.match(/^ +\d+ +\d+ +float +sum/gm)).toHaveLength(3);
    expect(out).toContain('# Out of bounds values : 0 OK');
  });
});
