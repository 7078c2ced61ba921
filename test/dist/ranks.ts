// Runs a program as N real processes that communicate, with torchrun's variables and without a launcher between.
// Rank 0 serves the store, as under a bare launcher. The programs run dist/.
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:net';
import { tmpdir } from 'node:os';
import { join } from 'node:path';

/** What one rank did. */
export interface RankRun {
  code: number | null;
  signal: NodeJS.Signals | null;
  out: string;
  err: string;
  /** The objects that it printed with `report(...)`. */
  reports: Record<string, unknown>[];
}

/** Seconds from which a rank counts as hung. */
const PATIENCE = 50;

export async function freePort(): Promise<number> {
  const server = createServer();
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  const { port } = server.address() as { port: number };
  await new Promise((resolve) => server.close(resolve));
  return port;
}

/**
 * Runs `body`, the text of a module, on `size` ranks. It finds `dist`, `core`, `nn`, `optim` and `parallel` (the built folders'
 * index modules), `rank`, `size`, and `report(object)`. `under` gives the command that a rank is started by.
 */
export async function runRanks(
  size: number,
  body: string,
  env: Record<string, string> = {},
  under: (rank: number) => readonly string[] = () => [],
): Promise<RankRun[]> {
  const folder = mkdtempSync(join(tmpdir(), 'shardloop-test-ranks-'));
  const script = join(folder, 'rank.mjs');
  const module = (name: string) => new URL(`../../dist/${name}/index.js`, import.meta.url).href;
  const imports = ['dist', 'core', 'nn', 'optim', 'parallel'].map(
    (name) => `import * as ${name} from '${module(name)}';`,
  );
  const prelude = `
    const rank = Number(process.env.RANK), size = Number(process.env.WORLD_SIZE);
    const report = (value) => console.log('REPORT ' + JSON.stringify(value, (_, v) => (typeof v === 'bigint' ? Number(v) : v)));
    const refusal = (fn) => { try { fn(); return 'no error'; } catch (e) { return e.code + ': ' + e.message; } };
    const failure = async (fn) => { try { await fn(); return 'no error'; } catch (e) { return e.code + ': ' + e.message; } };
    core.setNumThreads(1);`;
  writeFileSync(script, [...imports, prelude, body].join('\n'));
  const port = await freePort();
  const ranks = Array.from({ length: size }, (_, rank) =>
    start([...under(rank), process.execPath, script], {
      RANK: String(rank),
      WORLD_SIZE: String(size),
      LOCAL_RANK: String(rank),
      LOCAL_WORLD_SIZE: String(size),
      MASTER_ADDR: '127.0.0.1',
      MASTER_PORT: String(port),
      ...env,
    }),
  );
  try {
    return await Promise.all(ranks);
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

function start([program, ...args]: readonly string[], env: Record<string, string>): Promise<RankRun> {
  const child = spawn(program!, args, {
    env: { ...process.env, ...env },
    stdio: ['ignore', 'pipe', 'pipe'],
  });
  let out = '';
  let err = '';
  child.stdout.on('data', (chunk) => (out += chunk));
  child.stderr.on('data', (chunk) => (err += chunk));
  const timer = setTimeout(() => child.kill('SIGKILL'), PATIENCE * 1000);
  return new Promise((resolve) => {
    child.once('close', (code, signal) => {
      clearTimeout(timer);
      const reports = [...out.matchAll(/^REPORT (.*)$/gm)].map(
        (match) => JSON.parse(match[1]!) as Record<string, unknown>,
      );
      resolve({ code, signal, out, err, reports });
    });
  });
}
