// Launchers as child processes, with small programs as their ranks; and what tests ask about processes and ports.
import { type ChildProcess, spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { connect } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll } from 'vitest';

export const LAUNCH = new URL('../../dist/dist/launch.js', import.meta.url).href;
const module = (name: string) => new URL(`../../dist/${name}/index.js`, import.meta.url).href;

/** What a rank's program begins with to sum rank + 1 over the ranks and say so. */
export const SUMS = `
  import { init } from '${module('dist')}';
  import { tensor } from '${module('core')}';
  const group = await init({ timeoutSeconds: 40 });
  const t = tensor([group.rank + 1]);
  await group.allReduce(t).done();
  console.log('sum ' + t.itemSync() + ' rank ' + group.rank + ' of ' + group.size + ';');`;

/** A folder for a test file; removed behind its last test. */
export function launchFolder(): () => string {
  let folder: string;
  beforeAll(() => {
    folder = mkdtempSync(join(tmpdir(), 'shardloop-test-launch-'));
  });
  afterAll(() => rmSync(folder, { recursive: true, force: true }));
  return () => folder;
}

export interface Run {
  child: ChildProcess;
  out: () => string;
  err: () => string;
  ended: Promise<number | null>;
}

/** A program that runs, and what it has written so far. */
export function running(command: string, args: readonly string[], env: NodeJS.ProcessEnv = process.env): Run {
  const child = spawn(command, args, { env, stdio: ['ignore', 'pipe', 'pipe'] });
  let out = '';
  let err = '';
  child.stdout!.on('data', (chunk) => (out += chunk));
  child.stderr!.on('data', (chunk) => (err += chunk));
  const ended = new Promise<number | null>((resolve) => child.once('close', resolve));
  return { child, out: () => out, err: () => err, ended };
}

/** A process that launches `program` (source text) with `options` and exits with the result's code. */
export function launcher(folder: string, program: string, options: object): Run {
  const script = join(folder, `rank-${Math.random().toString(36).slice(2)}.mjs`);
  writeFileSync(script, program);
  const source = `
    import { launch } from '${LAUNCH}';
    try {
      const result = await launch({ command: [process.execPath, ${JSON.stringify(script)}], ...${JSON.stringify(options)} });
      if (result.failure) console.log('FAILURE ' + JSON.stringify(result.failure));
      process.exitCode = result.exitCode;
    } catch (error) {
      console.error(error.code + ': ' + error.message);
      process.exitCode = 99;
    }`;
  const clean = Object.fromEntries(Object.entries(process.env).filter(([name]) => name !== 'OMP_NUM_THREADS'));
  return running(process.execPath, ['--input-type=module', '-e', source], clean);
}

export const until = async (what: () => boolean, seconds = 30): Promise<void> => {
  const deadline = Date.now() + seconds * 1000;
  while (!what()) {
    if (Date.now() > deadline) throw new Error('it did not happen');
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
};

export const alive = (pid: number): boolean => {
  try {
    process.kill(pid, 0);
    return !readFileSync(`/proc/${pid}/stat`, 'utf8').includes(') Z ');
  } catch {
    return false;
  }
};

/** Whether somebody listens on a port of the loopback. */
export function listens(port: number): Promise<boolean> {
  return new Promise((resolve) => {
    const socket = connect(port, '127.0.0.1');
    socket.once('connect', () => resolve(socket.destroy() !== null));
    socket.once('error', () => resolve(false));
  });
}

export const numbers = (text: string, pattern: RegExp): number[] =>
  [...text.matchAll(pattern)].map((match) => Number(match[1]));
