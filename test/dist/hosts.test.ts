// Several launchers, as on several hosts, here on the loopback: one verdict for all, whoever fails, stops or disappears.
// The same between network namespaces stands in test/oracle/launchers.test.ts.
import { describe, expect, it } from 'vitest';
import { alive, launcher, launchFolder, listens, numbers, type Run, SUMS, until } from './launcher.js';
import { freePort } from './ranks.js';

const folder = launchFolder();
const ATTEMPT = 'const attempt = Number(process.env.TORCHELASTIC_RESTART_COUNT), rank = Number(process.env.RANK);';
const WAITS = "console.log('ready ' + process.pid); setInterval(() => {}, 1000);";

/** Two launchers of one launch, node 0's first. */
async function twoHosts(
  program: string,
  options: object = {},
  second: object = {},
): Promise<[Run, Run] & { port: number }> {
  const port = await freePort();
  const common = { nprocPerNode: 1, nnodes: 2, masterAddr: '127.0.0.1', masterPort: port, graceSeconds: 1, ...options };
  const runs: [Run, Run] = [
    launcher(folder(), program, { ...common, nodeRank: 0 }),
    launcher(folder(), program, { ...common, nodeRank: 1, ...second }),
  ];
  return Object.assign(runs, { port });
}

const codes = (runs: [Run, Run]) => Promise.all(runs.map((run) => run.ended));
const ready = (runs: [Run, Run]) => until(() => runs.every((run) => run.out().includes('ready')));

describe('several hosts', () => {
  it('start again together, whichever failed, and end together', async () => {
    const runs = await twoHosts(
      `${ATTEMPT} ${SUMS}
       if (attempt === rank) { console.error('gave up'); process.exit(7); }
       if (attempt < 2) await group.barrier().done();
       await group.destroy();`,
      { maxRestarts: 2 },
    );
    expect(await codes(runs), runs.map((run) => run.err()).join()).toEqual([0, 0]);
    for (const [node, run] of runs.entries()) {
      expect(run.out().split(`sum 3 rank ${node} of 2;`)).toHaveLength(4);
      expect(run.err()).toMatch(/restart 1 of 2: all 2 ranks start again, because rank 0 .* exit code 7/);
      expect(run.err()).toMatch(/restart 2 of 2: all 2 ranks start again, because rank 1 .* exit code 7/);
    }
    expect(runs[1].err()).toMatch(/\[launch\] node 0: rank 0 .*\n\[launch\] {3}gave up/);
    expect(await listens(runs.port)).toBe(false);
  });

  it('all end with the code of the first failure', async () => {
    const runs = await twoHosts(`${ATTEMPT} if (rank === 1) { console.error('no luck'); process.exit(9); } ${WAITS}`);
    expect(await codes(runs)).toEqual([9, 9]);
    expect(runs[0].err()).toMatch(/\[launch\] node 1: rank 1 .* exit code 9 .*\n\[launch\] {3}no luck/);
    expect(runs[0].out()).not.toContain('FAILURE');
    expect(numbers(runs[0].out(), /ready (\d+)/g).some(alive)).toBe(false);
  });

  it('none starts again behind bad data, or after a signal to one of them', async () => {
    const bad = await twoHosts(`${ATTEMPT} if (rank === 0) process.exit(3); ${WAITS}`, { maxRestarts: 4 });
    expect(await codes(bad)).toEqual([3, 3]);
    for (const run of bad) expect(run.err()).toContain('no restart: exit code 3 is bad data');
    const stopped = await twoHosts(WAITS, { maxRestarts: 4 });
    await ready(stopped);
    stopped[1].child.kill('SIGTERM');
    expect(await codes(stopped)).toEqual([143, 143]);
    expect(stopped[0].err()).toContain('[launch] node 1: stopped by SIGTERM');
    for (const run of stopped) expect(run.err()).toContain('no restart: SIGTERM came from outside');
  });

  it('one that comes after node 0 has failed hears of it, and node 0 does not wait for ever', async () => {
    const port = await freePort();
    const common = { nprocPerNode: 1, nnodes: 2, masterAddr: '127.0.0.1', masterPort: port, graceSeconds: 1 };
    const first = (options: object = {}) =>
      launcher(folder(), "console.error('no disk'); process.exit(3);", { ...common, nodeRank: 0, ...options });
    const waits = (run: Run) => until(() => run.err().includes('for the launchers of 1 more host, to tell them'), 20);
    const failed = first();
    await waits(failed);
    const late = launcher(folder(), WAITS, { ...common, nodeRank: 1 });
    expect(await Promise.all([failed.ended, late.ended])).toEqual([3, 3]);
    expect(late.err()).toMatch(/\[launch\] node 0: rank 0 .* exit code 3 .*\n\[launch\] {3}no disk/);
    expect(await first({ joinSeconds: 1 }).ended).toBe(3);
    const stopped = first();
    await waits(stopped);
    stopped.child.kill('SIGINT');
    expect(await stopped.ended).toBe(3);
  });

  it('the one that is done waits for the other, and can be stopped meanwhile', async () => {
    const late = await twoHosts(`${ATTEMPT} setTimeout(() => console.log('end'), rank * 2000);`);
    await until(() => late[0].out().includes('end'));
    expect(await listens(late.port)).toBe(true);
    expect(await codes(late)).toEqual([0, 0]);
    expect(late[1].out()).toContain('end');
    const stopped = await twoHosts(`${ATTEMPT} if (rank === 0) console.log('ready'); else { ${WAITS} }`);
    await ready(stopped);
    await until(() => !alive(numbers(stopped[0].out(), /ready (\d+)/g)[0] ?? 2 ** 22));
    await new Promise((resolve) => setTimeout(resolve, 1000));
    stopped[0].child.kill('SIGINT');
    expect(await codes(stopped)).toEqual([130, 130]);
  });

  it.each([0, 1])('the other ends with a named error when the launcher of node %i is killed', async (node) => {
    const runs = await twoHosts(WAITS, { maxRestarts: 4 });
    await ready(runs);
    runs[node]!.child.kill('SIGKILL');
    const other = runs[1 - node]!;
    expect(await other.ended).toBe(1);
    expect(other.err()).toContain(`[launch] node ${node}: the launcher of node ${node} disappeared`);
    expect(other.err()).toContain('[launch] no restart: its host cannot start again');
    const pids = runs.flatMap((run) => numbers(run.out(), /ready (\d+)/g));
    expect(pids).toHaveLength(2);
    await until(() => !pids.some(alive), 8);
  });

  it('say that a host does not come to the restart', async () => {
    const runs = await twoHosts(
      `${ATTEMPT} console.log('ready ' + process.pid); setTimeout(() => process.exit(rank === 0 ? 7 : 0), 2000);`,
      { maxRestarts: 4, joinSeconds: 3 },
    );
    await ready(runs);
    runs[1].child.kill('SIGSTOP');
    expect(await runs[0].ended).toBe(7);
    expect(runs[0].err()).toContain('[launch] no restart: only 1 of 2 hosts came to the restart within 4 s');
    runs[1].child.kill('SIGCONT');
    expect(await runs[1].ended).toBe(1);
    expect(runs[1].err()).toMatch(/the launcher of node 0 at 127.0.0.1:\d+ is gone|only 1 of 2 hosts/);
  });

  it('must be started alike', async () => {
    const runs = await twoHosts(WAITS, {}, { maxRestarts: 1 });
    const odd = await Promise.race(runs.map((run) => run.ended.then(() => run)));
    expect(await odd.ended).toBe(99);
    expect(odd.err()).toMatch(
      /BAD_LAUNCH: launch: expected all hosts to be started alike, with nnodes 2, nprocPerNode \d+, maxRestarts \d, received/,
    );
    for (const run of runs) run.child.kill('SIGTERM');
    await codes(runs);
  });

  it('say where they looked for node 0 in vain', async () => {
    const port = await freePort();
    const options = { nprocPerNode: 1, nnodes: 2, nodeRank: 1, masterAddr: '127.0.0.1', masterPort: port };
    const run = launcher(folder(), WAITS, { ...options, joinSeconds: 6 });
    expect(await run.ended).toBe(99);
    expect(run.err()).toContain(`[launch] waiting for the launcher of node 0 at 127.0.0.1:${port}`);
    expect(run.err()).toMatch(
      new RegExp(`BAD_LAUNCH: launch: node 1 did not reach the launcher of node 0 at 127.0.0.1:${port} within 6 s`),
    );
    expect(run.out()).toBe('');
  });
});
