// The launcher with small programs as ranks: environment, output, failures, signals, and no orphans. Programs that
// communicate stand in group.test.ts.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'shardloop-test-launch-'));
});
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const LAUNCH = new URL('../../dist/dist/launch.js', import.meta.url).href;

interface Run {
  child: ChildProcess;
  out: () => string;
  err: () => string;
  ended: Promise<number | null>;
}

/** A process that launches `program` (source text) with `options` and exits with the result's code. */
function launcher(program: string, options: object, env: Record<string, string> = {}): Run {
  const script = join(folder, `rank-${Math.random().toString(36).slice(2)}.mjs`);
  writeFileSync(script, program);
  const source = `
    import { launch } from '${LAUNCH}';
    const result = await launch({ command: [process.execPath, ${JSON.stringify(script)}], ...${JSON.stringify(options)} });
    if (result.failure) console.log('FAILURE ' + JSON.stringify(result.failure));
    process.exitCode = result.exitCode;`;
  const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => name !== 'OMP_NUM_THREADS'));
  const child = spawn(process.execPath, ['--input-type=module', '-e', source], { env: { ...clean, ...env } });
  let out = '';
  let err = '';
  child.stdout!.on('data', (chunk) => (out += chunk));
  child.stderr!.on('data', (chunk) => (err += chunk));
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  return { child, out: () => out, err: () => err, ended };
}

const until = async (what: () => boolean, seconds = 15): Promise<void> => {
  const deadline = Date.now() + seconds * 1000;
  while (!what()) {
    if (Date.now() > deadline) throw new Error('it did not happen');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};

const alive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
  } catch {
    return false;
  }
};

const numbers = (text: string, pattern: RegExp): number[] =>
  [...text.matchAll(pattern)].map((match) => Number(match[1]));

describe('launch', () => {
  it("gives each rank torchrun's variables and tags its lines", async () => {
    const run = launcher(
      `const e = process.env;
       console.log([e.RANK, e.LOCAL_RANK, e.WORLD_SIZE, e.LOCAL_WORLD_SIZE, e.GROUP_RANK, e.ROLE_RANK, e.ROLE_WORLD_SIZE].join(' '));
       console.log(e.MASTER_ADDR, e.MASTER_PORT > 0, e.TORCHELASTIC_RESTART_COUNT, e.TORCHELASTIC_MAX_RESTARTS,
         e.TORCHELASTIC_USE_AGENT_STORE, e.TORCHELASTIC_RUN_ID, e.OMP_NUM_THREADS >= 1, !!e.TORCHELASTIC_ERROR_FILE, e.EXTRA, process.argv[2]);
       console.error('to stderr');`,
      { nprocPerNode: 2, env: { EXTRA: 'extra' }, args: ['argument'] },
    );
    expect(await run.ended).toBe(0);
    const lines = run.out().trim().split('\n').sort();
    const common = '127.0.0.1 true 0 0 True shardloop true true extra argument';
    expect(lines).toEqual(['[0] 0 0 2 2 0 0 2', `[0] ${common}`, '[1] 1 1 2 2 0 1 2', `[1] ${common}`].sort());
    expect(run.err().trim().split('\n').sort()).toEqual(['[0] to stderr', '[1] to stderr']);
  });

  it('gives a single rank no store, and numbers ranks by host', async () => {
    const program = 'console.log(process.env.TORCHELASTIC_USE_AGENT_STORE, process.env.RANK, process.env.MASTER_PORT)';
    const one = launcher(program, { nprocPerNode: 1 });
    const second = launcher(program, { nprocPerNode: 2, nnodes: 2, nodeRank: 1, masterAddr: 'a', masterPort: 29555 });
    expect(await one.ended).toBe(0);
    expect(one.out()).toMatch(/^\[0\] False 0 /);
    expect(await second.ended).toBe(0);
    expect(second.out().trim().split('\n').sort()).toEqual(['[2] True 2 29555', '[3] True 3 29555']);
  });

  it("shows rank 0 bare with output 'rank0', and keeps logs in logDir", async () => {
    const program = "console.log('out of ' + process.env.RANK); console.error('err of ' + process.env.RANK)";
    const bare = launcher(program, { nprocPerNode: 2, output: 'rank0' });
    expect(await bare.ended).toBe(0);
    expect(bare.out()).toBe('out of 0\n');
    expect(bare.err().trim().split('\n').sort()).toEqual(['[1] err of 1', '[1] out of 1', 'err of 0']);
    const logDir = join(folder, 'logs');
    const logged = launcher(program, { nprocPerNode: 2, output: 'rank0', logDir });
    expect(await logged.ended).toBe(0);
    expect(logged.out()).toBe('out of 0\n');
    expect(readFileSync(join(logDir, 'rank-1.out'), 'utf8')).toBe('out of 1\n');
    expect(readFileSync(join(logDir, 'rank-0.err'), 'utf8')).toBe('err of 0\n');
  });

  it('names the rank that failed first, its last words and its code, and stops the others', async () => {
    const run = launcher(
      `if (process.env.RANK === '1') { console.error('the disk is full'); process.exit(7); }
       console.log('pid ' + process.pid); setInterval(() => {}, 1000);`,
      { nprocPerNode: 3 },
    );
    expect(await run.ended).toBe(7);
    expect(run.err()).toMatch(
      /\[launch\] rank 1 \(local rank 1, pid \d+\) failed first: exit code 7 after [\d.]+ s\n\[launch\] {3}the disk is full/,
    );
    expect(numbers(run.out(), /pid (\d+)/g).some(alive)).toBe(false);
  });

  it('finds the root cause in the error files, behind ranks that only lost their peers', async () => {
    const report = new URL('../../dist/dist/failure-report.js', import.meta.url).href;
    const run = launcher(
      `import { recordFailure } from '${report}';
       const rank = process.env.RANK;
       process.on('SIGTERM', () => {});
       if (rank === '0') {
         await new Promise((resolve) => setTimeout(resolve, 2000)); // by then the other one is there
         recordFailure(Object.assign(new Error('lost a peer'), { code: 'COLLECTIVE_FAILED' })); process.exit(3);
       }
       await new Promise((resolve) => setTimeout(resolve, 2500));
       recordFailure(new TypeError('the real reason')); process.exit(4);`,
      { nprocPerNode: 2 },
    );
    expect(await run.ended).toBe(4);
    expect(run.err()).toContain('rank 1');
    expect(run.err()).toContain('TypeError: the real reason');
  });

  it('counts a signal as 128 + its number, and kills what ignores SIGTERM after the grace', async () => {
    const run = launcher(
      `if (process.env.RANK === '0') setTimeout(() => process.kill(process.pid, 'SIGKILL'), 200);
       process.on('SIGTERM', () => console.log('ignored')); console.log('pid ' + process.pid); setInterval(() => {}, 1000);`,
      { nprocPerNode: 2, graceSeconds: 0.5 },
    );
    expect(await run.ended).toBe(137);
    expect(run.err()).toContain('rank 0 (local rank 0');
    expect(run.err()).toContain('signal SIGKILL');
    expect(run.out()).toContain('[1] ignored');
  });

  it('reports a program that cannot be started', async () => {
    const run = launcher('', { nprocPerNode: 1, command: ['/no/such/program'] });
    expect(await run.ended).toBe(127);
    expect(run.err()).toContain('ENOENT');
  });

  it('forwards signals and leaves the ranks their time to end', async () => {
    const run = launcher(
      `process.on('SIGINT', () => { console.log('saving'); setTimeout(() => { console.log('saved'); process.exit(130); }, 100 + 600 * process.env.RANK); });
       console.log('ready'); setInterval(() => {}, 1000);`,
      { nprocPerNode: 2 },
    );
    await until(() => run.out().split('ready').length === 3);
    run.child.kill('SIGINT');
    expect(await run.ended).toBe(130);
    expect(run.out().split('saved').length).toBe(3);
    expect(run.err()).not.toContain('failed first');
  });

  it('stops by abort, and after the third signal at once', async () => {
    const source = `
      import { launch } from '${LAUNCH}';
      const result = await launch({ command: [process.execPath, '-e', 'setInterval(() => {}, 1000)'], nprocPerNode: 2, abort: AbortSignal.timeout(500) });
      console.log(result.exitCode, result.failure);`;
    const child = spawn(process.execPath, ['--input-type=module', '-e', source]);
    let out = '';
    child.stdout.on('data', (chunk) => (out += chunk));
    await new Promise((resolve) => child.once('close', resolve));
    expect(out).toBe('143 null\n');
    const stubborn = launcher(
      `process.on('SIGINT', () => console.log('no')); console.log('ready'); setInterval(() => {}, 1000);`,
      { nprocPerNode: 1 },
    );
    await until(() => stubborn.out().includes('ready'));
    for (const count of [1, 2]) {
      stubborn.child.kill('SIGINT');
      await until(() => stubborn.out().split('no').length === count + 1);
    }
    stubborn.child.kill('SIGINT');
    expect(await stubborn.ended).toBe(130);
  });

  it('leaves no orphan when the launcher is killed, not even a rank that is stuck or has children', async () => {
    const run = launcher(
      `import { spawn } from 'node:child_process';
       const child = spawn('sleep', ['1000']);
       process.on('SIGTERM', () => {});
       process.stdout.write('pid ' + process.pid + '\\npid ' + child.pid + '\\n', () => { for (;;); });`,
      { nprocPerNode: 2 },
    );
    await until(() => numbers(run.out(), /pid (\d+)/g).length === 4);
    const pids = numbers(run.out(), /pid (\d+)/g);
    expect(pids.every(alive)).toBe(true);
    run.child.kill('SIGKILL');
    await until(() => !pids.some(alive), 8);
  });

  it('serves the store on the port that was asked for, or says that it is taken', async () => {
    const { launch } = await import('../../lib/dist/launch.js');
    const server = createServer();
    const port = await new Promise<number>((resolve) => {
      server.listen(0, () => resolve((server.address() as { port: number }).port));
    });
    const options = {
      command: [process.execPath, '-e', `process.exitCode = process.env.MASTER_PORT === '${port}' ? 0 : 9`],
    };
    await expect(launch({ ...options, nprocPerNode: 2, masterPort: port })).rejects.toMatchObject({
      code: 'BAD_LAUNCH',
      message: expect.stringContaining(`could not serve the rendezvous store on 127.0.0.1:${port}`),
    });
    await new Promise((resolve) => server.close(resolve));
    expect(await launch({ ...options, nprocPerNode: 2, masterPort: port })).toEqual({ exitCode: 0, failure: null });
  });

  it.each([
    [{ nprocPerNode: 0 }, /nprocPerNode to be 1 or more, received 0/],
    [{ nprocPerNode: 1.5 }, /nprocPerNode/],
    [{ nprocPerNode: 1, nnodes: 2, nodeRank: 2, masterAddr: 'a', masterPort: 1 }, /nodeRank to be from 0 to 1/],
    [{ nprocPerNode: 1, nnodes: 2, masterAddr: 'a' }, /masterPort, the same on every host/],
    [{ nprocPerNode: 1, nnodes: 2, masterPort: 29500 }, /masterAddr, the host of node 0/],
    [{ nprocPerNode: 1, masterPort: 70000 }, /masterPort to be a port/],
    [{ nprocPerNode: 1, command: [] }, /a command/],
  ])('refuses %j', async (options, message) => {
    const { launch } = await import('../../lib/dist/launch.js');
    await expect(launch({ command: ['x'], ...options })).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringMatching(message),
    });
  });
});
