// Restarts on one host: all ranks again after a failure, as often as was asked for, and never after what another attempt
// cannot mend.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import { alive, launcher as launcherIn, launchFolder, listens, numbers, SUMS, until } from './launcher.js';

const folder = launchFolder();
const launcher = (program: string, options: object) => launcherIn(folder(), program, options);
const ATTEMPT = 'const attempt = Number(process.env.TORCHELASTIC_RESTART_COUNT), rank = Number(process.env.RANK);';

describe('maxRestarts', () => {
  it('starts all ranks again into a fresh set of keys, and says why', async () => {
    const run = launcher(
      `${ATTEMPT} ${SUMS}
       console.log('attempt ' + attempt + ' of ' + process.env.TORCHELASTIC_MAX_RESTARTS + ';');
       if (attempt < 2 && rank === 1) { console.error('gave up'); process.exit(7); }
       if (attempt < 2) await group.barrier().done();
       await group.destroy();`,
      { nprocPerNode: 2, maxRestarts: 3, logDir: join(folder(), 'logs') },
    );
    expect(await run.ended).toBe(0);
    for (const attempt of [0, 1, 2]) expect(run.out().split(`attempt ${attempt} of 3;`), run.err()).toHaveLength(3);
    expect(run.out().split('sum 3 rank 0 of 2;')).toHaveLength(4);
    expect(run.err()).toMatch(
      /\[launch\] restart 1 of 3: all 2 ranks start again, because rank 1 \(local rank 1, pid \d+\) failed first: exit code 7/,
    );
    expect(run.err()).toContain('[launch] restart 2 of 3: ');
    expect(run.err()).not.toContain('restart 3 of 3');
    expect(run.err().split('[launch]   gave up')).toHaveLength(3);
    expect(readFileSync(join(folder(), 'logs', 'rank-0.out'), 'utf8').split('attempt')).toHaveLength(4);
  });

  it('ends with the last failure when none is left, and closes the port', async () => {
    const run = launcher(
      `${ATTEMPT} console.log('port ' + process.env.MASTER_PORT);
       if (rank === 0) process.exit(attempt === 0 ? 5 : 6); setInterval(() => {}, 1000);`,
      { nprocPerNode: 2, maxRestarts: 1 },
    );
    expect(await run.ended).toBe(6);
    expect(run.err()).toContain('[launch] restart 1 of 1: ');
    expect(run.err()).toContain('exit code 6');
    expect(run.err()).toContain('[launch] no restart: all 1 are used up');
    const ports = numbers(run.out(), /port (\d+)/g);
    expect(new Set(ports).size).toBe(1); // every attempt meets at the same place
    expect(await listens(ports[0]!)).toBe(false);
  });

  it('starts a single rank again that a signal ended', async () => {
    const run = launcher(`${ATTEMPT} if (attempt === 0) process.kill(process.pid, 'SIGKILL'); console.log('well');`, {
      nprocPerNode: 1,
      maxRestarts: 1,
    });
    expect(await run.ended).toBe(0);
    expect(run.err()).toContain('restart 1 of 1: all 1 ranks start again, because rank 0');
    expect(run.err()).toContain('signal SIGKILL');
    expect(run.out()).toBe('[0] well\n');
  });

  it.each([
    [2, 'exit code 2 is a usage error'],
    [3, 'exit code 3 is bad data'],
  ])('does not start again behind exit code %i', async (code, reason) => {
    const run = launcher(`process.exit(${code})`, { nprocPerNode: 2, maxRestarts: 5 });
    expect(await run.ended).toBe(code);
    expect(run.err()).toContain(`[launch] no restart: ${reason}`);
    expect(run.err()).not.toContain('restart 1');
  });

  it('does not start again what cannot be started', async () => {
    const run = launcher('', { nprocPerNode: 1, maxRestarts: 5, command: ['/no/such/program'] });
    expect(await run.ended).toBe(127);
    expect(run.err()).toContain('[launch] no restart: the program cannot be started');
  });

  it.each<[NodeJS.Signals, string, number]>([
    ['SIGINT', 'process.exit(130)', 130],
    ['SIGTERM', 'process.exit(1)', 1],
  ])('does not start again after %s from outside, when ranks then do %s', async (signal, program, code) => {
    const run = launcher(
      `process.on('${signal}', () => ${program}); console.log('ready'); setInterval(() => {}, 1000);`,
      { nprocPerNode: 2, maxRestarts: 5 },
    );
    await until(() => run.out().split('ready').length === 3);
    run.child.kill(signal);
    expect(await run.ended).toBe(code);
    expect(run.err()).toContain(`[launch] no restart: ${signal} came from outside`);
    expect(run.out().split('ready')).toHaveLength(3);
  });

  it('does not start again a rank that was asked to stop and says so', async () => {
    const report = new URL('../../dist/dist/failure-report.js', import.meta.url).href;
    const run = launcher(
      `import { recordFailure } from '${report}';
       recordFailure(Object.assign(new Error('stopped'), { code: 'INTERRUPTED' })); process.exit(130);`,
      { nprocPerNode: 1, maxRestarts: 5 },
    );
    expect(await run.ended).toBe(130);
    expect(run.err()).toContain('[launch] no restart: it was asked to stop');
  });

  it('leaves no orphan of any attempt when it is killed', async () => {
    const run = launcher(
      `${ATTEMPT} process.on('SIGTERM', () => {}); console.log('pid ' + process.pid + ' ' + attempt + ';');
       if (attempt === 0 && rank === 0) setTimeout(() => process.exit(1), 300); else setInterval(() => {}, 1000);`,
      { nprocPerNode: 2, maxRestarts: 1, graceSeconds: 0.3 },
    );
    await until(() => run.out().split(' 1;').length === 3);
    const pids = numbers(run.out(), /pid (\d+)/g);
    expect(pids).toHaveLength(4);
    run.child.kill('SIGKILL');
    await until(() => !pids.some(alive), 8);
  });
});
