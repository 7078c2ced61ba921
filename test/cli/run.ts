// Helpers of the CLI tests: run a command line in this process, or `shardloop` as a child process.
import { spawn } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { vi } from 'vitest';
import { main } from '../../lib/cli/index.js';

export interface Ended {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** Run a command line in this process; what it prints is caught. */
export async function inProcess(...args: string[]): Promise<Ended> {
  const caught = { stdout: '', stderr: '' };
  const catchFrom = (name: 'stdout' | 'stderr') =>
    vi.spyOn(process[name], 'write').mockImplementation((text) => {
      caught[name] += String(text);
      return true;
    });
  const spies = [catchFrom('stdout'), catchFrom('stderr')];
  const before = process.exitCode;
  try {
    await main(args);
    return { code: Number(process.exitCode ?? 0), ...caught };
  } finally {
    process.exitCode = before;
    for (const spy of spies) spy.mockRestore();
  }
}

export const program = fileURLToPath(new URL('../../dist/cli/index.js', import.meta.url));

/** Start `shardloop` as users do. `onStderr` sees all that came so far. */
export function shardloop(
  args: string[],
  options: {
    env?: NodeJS.ProcessEnv;
    cwd?: string;
    onStart?: (kill: (signal: NodeJS.Signals) => void) => void;
    onStderr?: (text: string, kill: (signal: NodeJS.Signals) => void) => void;
  } = {},
): Promise<Ended> {
  if (!existsSync(program)) throw new Error('run `npm run build` first: dist/cli/index.js is not there');
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [program, ...args], {
      cwd: options.cwd,
      env: { ...process.env, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    options.onStart?.((signal) => child.kill(signal));
    const ended = { stdout: '', stderr: '' };
    child.stdout.setEncoding('utf8').on('data', (text: string) => {
      ended.stdout += text;
    });
    child.stderr.setEncoding('utf8').on('data', (text: string) => {
      ended.stderr += text;
      options.onStderr?.(ended.stderr, (signal) => child.kill(signal));
    });
    child.on('error', reject).on('close', (code) => resolve({ code, ...ended }));
  });
}
