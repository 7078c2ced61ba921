// From the start of a process to its first result, in fresh processes with their files in the page cache: to the first
// token of a GPT-2 of 124 M parameters (a folder of 500 MB), and to the end of the first training step of a 10 M one.
// Python's side imports torch and transformers. The goals: 0.3 and 0.2 of Python's time.
// SHARDLOOP_BENCH_ROUNDS sets how many rounds are taken (5).
import { spawn } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { data, GPT2LMHeadModel, manualSeed, saveModel } from 'shardloop';
import { compare, medianOf, oraclePython, print, type Report } from './harness.js';

const ROUNDS = Number(process.env.SHARDLOOP_BENCH_ROUNDS ?? 5);
const here = (name: string) => fileURLToPath(new URL(name, import.meta.url));

/** Runs the benchmark and prints it. */
export async function startUp(json: boolean): Promise<Report> {
  const folder = mkdtempSync(join(tmpdir(), 'shardloop-bench-'));
  try {
    manualSeed(1);
    const model = new GPT2LMHeadModel({});
    await saveModel(model, folder, { tokenizer: data.byteTokenizer() });
    model.dispose();
    const contenders = ['token', 'step'].flatMap((what) => [
      { name: `shardloop ${what}`, line: [process.execPath, here('start-up-process.mjs'), what, folder] },
      { name: `Python ${what}`, line: [oraclePython(), here('start_up.py'), what, folder] },
    ]);
    const timings = await compare(
      contenders.map(({ name, line }) => ({ name, run: () => untilDone(name, line) })),
      { rounds: ROUNDS, iterations: 1, warmups: 1 },
    );
    const ratio = (what: string) => medianOf(timings, `shardloop ${what}`) / medianOf(timings, `Python ${what}`);
    return print(
      'start',
      timings,
      {
        "to the first token, of Python's time": ratio('token'),
        "to the first step's end, of Python's time": ratio('step'),
      },
      json,
      {
        "to the first token, of Python's time": { atMost: 0.3 },
        "to the first step's end, of Python's time": { atMost: 0.2 },
      },
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** Nanoseconds from the start of a process to its `done`. */
function untilDone(name: string, [program, ...args]: string[]): Promise<number> {
  const start = process.hrtime.bigint();
  const child = spawn(program!, args, { stdio: ['ignore', 'pipe', 'inherit'] });
  return new Promise((resolve, reject) => {
    let time: number | null = null;
    child.stdout.on('data', () => {
      time ??= Number(process.hrtime.bigint() - start);
    });
    child.on('error', reject);
    child.on('close', () => (time === null ? reject(new Error(`${name} ended without a result`)) : resolve(time)));
  });
}
