// Checkpoints of a model of 10 M parameters with AdamW under ZeRO-2 on two ranks of one thread: how fast one is written,
// against as many bytes written plainly and synced, by as many writers to new files (goal: 0.7), and how much longer steps
// take while one is written in the background, throttled (goal: 5 % on average, the copy included). Rounds alternate, so
// that a busy machine disturbs all alike. SHARDLOOP_BENCH_ROUNDS sets how many are taken (7), SHARDLOOP_BENCH_MB the throttle (20 MB/s a rank).
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { data, GPT2LMHeadModel, manualSeed, saveModel } from 'shardloop';
import { freePort, print, type Report, summarize } from './harness.js';
import { startRanks } from './rank-pair.js';

const SIZE = 2;
const LENGTH = 256;
const ROUNDS = Number(process.env.SHARDLOOP_BENCH_ROUNDS ?? 7);
/** Saves a round, each behind a plain write: both are short, and the disk's speed varies. */
const PAIRS = 4;
const THROTTLE = Number(process.env.SHARDLOOP_BENCH_MB ?? 20);

/** Runs the benchmark and prints it. */
export async function checkpoint(json: boolean): Promise<Report> {
  const folder = mkdtempSync(join(tmpdir(), 'shardloop-bench-'));
  try {
    manualSeed(1);
    const shape = { n_layer: 6, n_head: 6, n_embd: 384, vocab_size: 256, n_positions: LENGTH };
    const made = new GPT2LMHeadModel({ ...shape, resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 });
    await saveModel(made, join(folder, 'model'), { tokenizer: data.byteTokenizer() });
    made.dispose();
    const script = fileURLToPath(new URL('checkpoint-rank.ts', import.meta.url));
    const port = await freePort();
    const line = [process.execPath, '--import', 'tsx', script, join(folder, 'model'), join(folder, 'out'), 6, LENGTH];
    const ranks = startRanks(
      'checkpoint',
      Array.from({ length: SIZE }, (_, rank) => [...line, rank, SIZE, port].map(String)),
    );
    const bytes = await ranks.run('bytes');
    await ranks.run('step 2');
    const times = { save: [] as number[], plain: [] as number[], alone: [] as number[], beside: [] as number[] };
    await ranks.run('plain');
    await ranks.run('save');
    let steps = 0;
    const beside = async () => {
      let sum = await ranks.run(`begin ${THROTTLE}`);
      for (steps = 0; (await ranks.run('busy')) > 0; steps++) sum += await ranks.run('step 1');
      return sum / steps;
    };
    const alone = async () => {
      let sum = 0;
      for (let i = 0; i < steps; i++) sum += await ranks.run('step 1');
      return sum / steps;
    };
    await beside(); // starts the thread, which stays
    for (let round = 0; round < ROUNDS; round++) {
      for (let pair = 0; pair < PAIRS; pair++) {
        times.plain.push(await ranks.run('plain'));
        times.save.push(await ranks.run('save'));
      }
      // As many steps without a save as beside one, of which the first bears the copy; now these first, now those.
      if (round % 2 === 0) times.beside.push(await beside());
      times.alone.push(await alone());
      if (round % 2 === 1) times.beside.push(await beside());
    }
    ranks.close();
    const timings = Object.entries(times).map(([name, values]) => summarize(name, values));
    const median = (values: number[]) => values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)]!;
    const pairs = (a: number[], b: number[]) => median(a.map((value, i) => value / b[i]!));
    return print(
      'checkpoint',
      timings,
      {
        'MB a rank': bytes / 1e6,
        'save speed, of a plain write': pairs(times.plain, times.save),
        'step beside a background save, of one alone': pairs(times.beside, times.alone),
      },
      json,
      {
        'save speed, of a plain write': { atLeast: 0.7 },
        'step beside a background save, of one alone': { atMost: 1.05 },
      },
    );
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}
