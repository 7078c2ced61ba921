// One run at a time in a folder: refusal, release, and what killed processes and other hosts leave behind.
import { spawn, spawnSync } from 'node:child_process';
import { once } from 'node:events';
import { existsSync, mkdtempSync, readdirSync, rmSync, utimesSync, writeFileSync } from 'node:fs';
import { hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterEach, beforeEach, expect, it } from 'vitest';
import { lockOut } from '../../lib/train/run-lock.js';

let out: string;
let file: string;
beforeEach(() => {
  out = mkdtempSync(join(tmpdir(), 'shardloop-lock-'));
  file = join(out, '.run.lock');
});
afterEach(() => rmSync(out, { recursive: true, force: true }));

const leave = (owner: object) => writeFileSync(file, JSON.stringify(owner));

it('is held once, names its owner, and leaves nothing', () => {
  const inner = join(out, 'a', 'b');
  const lock = lockOut(inner);
  expect(() => lockOut(inner)).toThrow(`process ${process.pid} on ${hostname()} is writing to ${inner}`);
  lock.release();
  expect(existsSync(inner)).toBe(false);
  lockOut(inner).release();
});

it('is taken over from a process that was killed, also while another waits for its end', async () => {
  const module = fileURLToPath(new URL('../../lib/train/run-lock.ts', import.meta.url));
  const code = `import(${JSON.stringify(module)}).then((m) => { m.lockOut(${JSON.stringify(out)}); console.log('held'); setInterval(() => {}, 1000); });`;
  const child = spawn(process.execPath, ['--import', 'tsx', '-e', code], { stdio: ['ignore', 'pipe', 'inherit'] });
  await once(child.stdout, 'data');
  expect(() => lockOut(out)).toThrow(`process ${child.pid} `);
  child.kill('SIGKILL');
  await once(child, 'exit');
  const lock = lockOut(out);
  expect(readdirSync(out)).toEqual(['.run.lock']);
  lock.release();
});

it('knows a pid that is used again, a torn file, and a silent host', () => {
  const gone = spawnSync(process.execPath, ['-e', '']).pid;
  const long = new Date(Date.now() - 3_600_000);
  leave({ pid: gone, host: hostname(), started: null });
  lockOut(out).release();
  if (process.platform === 'linux') {
    leave({ pid: process.pid, host: hostname(), started: '1' });
    lockOut(out).release();
  }
  leave({ pid: process.ppid, host: 'elsewhere', started: '1' });
  const recent = new Date(Date.now() - 130_000);
  utimesSync(file, recent, recent);
  expect(() => lockOut(out)).toThrow(`process ${process.ppid} on elsewhere`);
  expect(() => lockOut(out)).toThrow(
    /last heard of 13\d s ago; .* every 30 s\. If it is dead, remove its lock, .*\.run\.lock, or wait: in 13 minutes /,
  );
  utimesSync(file, long, long);
  lockOut(out).release();
  writeFileSync(file, '{"pid"');
  expect(() => lockOut(out)).toThrow('another process is writing');
  utimesSync(file, long, long);
  lockOut(out).release();
});

it('refuses a file, and a folder that cannot be made', () => {
  writeFileSync(file, '');
  expect(() => lockOut(file)).toThrow(/^out: expected a folder to write, .* is a file/);
  expect(() => lockOut(join(file, 'x'))).toThrow(/^out: cannot write to/);
});
