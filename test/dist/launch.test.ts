// The launcher with small programs as ranks: environment, output, failures, signals, and no orphans. Programs that
// communicate stand in group.test.ts.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { dirname, join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { launch } from '../../lib/dist/launch.js';
import { alive, LAUNCH, launcher as launcherIn, launchFolder, listens, numbers, type Run, until } from './launcher.js';
import { freePort } from './ranks.js';

const folder = launchFolder();
const launcher = (program: string, options: object) => launcherIn(folder(), program, options);

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
    const port = await freePort();
    const [first, second] = [0, 1].map((nodeRank) =>
      launcher(program, { nprocPerNode: 2, nnodes: 2, nodeRank, masterAddr: '127.0.0.1', masterPort: port }),
    ) as [Run, Run];
    expect(await one.ended).toBe(0);
    expect(one.out()).toMatch(/^\[0\] False 0 /);
    expect(await first.ended).toBe(0);
    expect(first.out().trim().split('\n').sort()).toEqual([`[0] True 0 ${port}`, `[1] True 1 ${port}`]);
    expect(await second.ended).toBe(0);
    expect(second.out().trim().split('\n').sort()).toEqual([`[2] True 2 ${port}`, `[3] True 3 ${port}`]);
  });

  it("shows rank 0 bare with output 'rank0', and keeps logs in logDir", async () => {
    const program = "console.log('out of ' + process.env.RANK); console.error('err of ' + process.env.RANK)";
    const bare = launcher(program, { nprocPerNode: 2, output: 'rank0' });
    expect(await bare.ended).toBe(0);
    expect(bare.out()).toBe('out of 0\n');
    expect(bare.err().trim().split('\n').sort()).toEqual(['[1] err of 1', '[1] out of 1', 'err of 0']);
    const logDir = join(folder(), 'logs');
    const logged = launcher(program, { nprocPerNode: 2, output: 'rank0', logDir });
    expect(await logged.ended).toBe(0);
    expect(logged.out()).toBe('out of 0\n');
    expect(readFileSync(join(logDir, 'rank-1.out'), 'utf8')).toBe('out of 1\n');
    expect(readFileSync(join(logDir, 'rank-0.err'), 'utf8')).toBe('err of 0\n');
    const file = join(logDir, 'rank-0.err');
    const refused = launch({ command: [process.execPath, '-e', '0'], nprocPerNode: 2, logDir: file });
    await expect(refused).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringMatching(/logDir: expected a folder, received .*rank-0\.err.*; name another one/),
    });
  });

  it('shows every line of ranks that write faster than it is read', async () => {
    const run = launcher(
      `for (let i = 0; i < 3000; i++) console.log('line ' + i + ' ' + 'x'.repeat(200)); console.error('end');`,
      { nprocPerNode: 6 },
    );
    run.child.stdout!.pause();
    setTimeout(() => run.child.stdout!.resume(), 2000);
    expect(await run.ended).toBe(0);
    expect(run.out().match(/^\[\d\] line \d+ x{200}$/gm)).toHaveLength(18_000);
    expect(run.err()).not.toContain('Warning');
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

  it('leaves no orphan when the launcher is killed, not even a rank that is stuck or has children, and no folder', async () => {
    const run = launcher(
      `import { spawn } from 'node:child_process';
       console.log('folder ' + process.env.SHARDLOOP_FAILURE_FILE);
       const child = spawn('sleep', ['1000']);
       process.on('SIGTERM', () => {});
       process.stdout.write('pid ' + process.pid + '\\npid ' + child.pid + '\\n', () => { for (;;); });`,
      { nprocPerNode: 2 },
    );
    await until(() => numbers(run.out(), /pid (\d+)/g).length === 4);
    const pids = numbers(run.out(), /pid (\d+)/g);
    expect(pids.every(alive)).toBe(true);
    const own = dirname(/folder (\S+)/.exec(run.out())![1]!);
    expect(existsSync(own)).toBe(true);
    run.child.kill('SIGKILL');
    await until(() => !pids.some(alive), 8);
    await until(() => !existsSync(own), 8);
  });

  it('takes along what a rank leaves behind in its group, and closes the port', async () => {
    const run = launcher(
      `import { spawn } from 'node:child_process';
       process.on('SIGUSR2', () => process.env.RANK === '1' && process.exit(5));
       const child = spawn('sh', ['-c', 'trap "" TERM; sleep 1000 & wait; sleep 1000']);
       console.log('port ' + process.env.MASTER_PORT + '\\npid ' + child.pid);`,
      { nprocPerNode: 2 },
    );
    await until(() => run.out().split('pid ').length === 3);
    run.child.kill('SIGUSR2');
    expect(await run.ended).toBe(5);
    const pids = numbers(run.out(), /pid (\d+)/g);
    expect(pids).toHaveLength(2);
    await until(() => !pids.some(alive), 2);
    expect(await listens(numbers(run.out(), /port (\d+)/g)[0]!)).toBe(false);
  });

  it('closes the port also when it is killed', async () => {
    const run = launcher(`console.log('port ' + process.env.MASTER_PORT + ' '); setInterval(() => {}, 1000);`, {
      nprocPerNode: 2,
    });
    await until(() => numbers(run.out(), /port (\d+) /g).length === 2);
    const port = numbers(run.out(), /port (\d+) /g)[0]!;
    expect(await listens(port)).toBe(true);
    run.child.kill('SIGKILL');
    const deadline = Date.now() + 8000;
    while ((await listens(port)) && Date.now() < deadline) await new Promise((resolve) => setTimeout(resolve, 50));
    expect(await listens(port)).toBe(false);
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
    [{ nprocPerNode: 1, maxRestarts: -1 }, /maxRestarts to be 0 or more, received -1/],
    [{ nprocPerNode: 1, joinSeconds: 0 }, /joinSeconds to be a positive number/],
    [
      { nprocPerNode: 1, standalone: true, nnodes: 2, masterAddr: 'a', masterPort: 1 },
      /no nnodes above 1 beside standalone/,
    ],
    [{ nprocPerNode: 1, standalone: true, masterAddr: 'a' }, /no masterAddr beside standalone.*received "a"/],
    [{ nprocPerNode: 1, standalone: true, masterPort: 29500 }, /no masterPort beside standalone/],
    [{ nprocPerNode: 1, masterPort: 70000 }, /masterPort to be a port/],
    [{ nprocPerNode: 1, command: [] }, /a command/],
    [{ nprocPerNode: 1, command: 'node' }, /a command as an array of texts, received "node"/],
    [{ nprocPerNode: 1, args: 'x' }, /args to be an array of texts, received "x"/],
    [{ nprocPerNode: '2' }, /nprocPerNode to be 1 or more, received "2"/],
    [{ nprocPerNod: 2 }, /unknown option 'nprocPerNod'; did you mean 'nprocPerNode'/],
  ])('refuses %j', async (options, message) => {
    const { launch } = await import('../../lib/dist/launch.js');
    await expect(launch({ command: ['x'], ...options } as never)).rejects.toMatchObject({
      code: 'BAD_ARGUMENT',
      message: expect.stringMatching(message),
    });
  });
});
