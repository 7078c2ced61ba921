// The lock between set-ups, across processes and after deaths.
import { spawn } from 'node:child_process';
import { existsSync, readFileSync, utimesSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { expect, it } from 'vitest';
import { isRunning, withLock } from '../../lib/setup/lock.js';
import { temporary } from './fakes.js';

const source = fileURLToPath(new URL('../../lib/setup/lock.ts', import.meta.url));

it('lets one at a time through, in this process and across processes', async () => {
  const folder = temporary();
  const file = join(folder, 'a.lock');
  const counter = join(folder, 'counter');
  writeFileSync(counter, '0');
  // Read, wait, write: any two that overlap lose an increment.
  const program = `
    import { readFileSync, writeFileSync } from 'node:fs';
    const { withLock } = await import(${JSON.stringify(source)});
    for (let i = 0; i < 3; i++) await withLock(${JSON.stringify(file)}, async () => {
      const n = Number(readFileSync(${JSON.stringify(counter)}, 'utf8'));
      await new Promise((r) => setTimeout(r, 20));
      writeFileSync(${JSON.stringify(counter)}, String(n + 1));
    });`;
  const runs = [1, 2, 3].map(
    () =>
      new Promise<number | null>((resolve) => {
        const child = spawn(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', program]);
        child.on('close', resolve);
      }),
  );
  expect(await Promise.all(runs)).toEqual([0, 0, 0]);
  expect(readFileSync(counter, 'utf8')).toBe('9');
  expect(existsSync(file)).toBe(false);
});

it('is released when the work fails, and says whom it waits for', async () => {
  const file = join(temporary(), 'b.lock');
  await expect(withLock(file, async () => Promise.reject(new Error('no')))).rejects.toThrow('no');
  const waits: string[] = [];
  const first = withLock(file, () => new Promise<void>((resolve) => setTimeout(resolve, 400)));
  await withLock(
    file,
    async () => undefined,
    (text) => waits.push(text),
  );
  await first;
  expect(waits).toEqual([expect.stringContaining(`process ${process.pid} on ${hostname()}`)]);
});

it('takes over the lock of a process that is dead, or whose number another process has now', async () => {
  const file = join(temporary(), 'c.lock');
  const dead = await new Promise<number>((resolve) => {
    const child = spawn('true');
    child.on('close', () => resolve(child.pid ?? 0));
  });
  expect(isRunning(dead)).toBe(false);
  writeFileSync(file, JSON.stringify({ pid: dead, host: hostname(), started: '1' }));
  expect(await withLock(file, async () => 'mine')).toBe('mine');
  writeFileSync(file, JSON.stringify({ pid: process.pid, host: hostname(), started: '1' }));
  expect(await withLock(file, async () => 'mine')).toBe('mine');
});

it('takes over a lock of another host only after a minute of silence', async () => {
  const file = join(temporary(), 'd.lock');
  writeFileSync(file, JSON.stringify({ pid: 1, host: 'elsewhere', started: null }));
  let taken = false;
  const work = withLock(file, async () => {
    taken = true;
  });
  await new Promise((resolve) => setTimeout(resolve, 600));
  expect(taken).toBe(false);
  const old = new Date(Date.now() - 61_000);
  utimesSync(file, old, old);
  await work;
  expect(taken).toBe(true);
});

it('takes over a lock whose writer died before it named itself', async () => {
  const file = join(temporary(), 'e.lock');
  writeFileSync(file, '');
  const old = new Date(Date.now() - 6_000);
  utimesSync(file, old, old);
  expect(await withLock(file, async () => 1)).toBe(1);
});
