// A training step costs what it cost before, in numbers that a busy machine does not change: ops and allocations of a fixed
// small run, against step-cost.json. `UPDATE=1 npx vitest run test/train/step-cost.test.ts` records what it costs now.
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { call, countWork } from '../../lib/core/index.js';
import type { FinetuneOptions } from '../../lib/train/finetune.js';
import { makeTiny, type Tiny, tune } from './tiny.js';

const RECORD = new URL('./step-cost.json', import.meta.url);

interface Cost {
  calls: number;
  allocations: number;
  bytes: number;
}

// Another version of libtorch composes some ops otherwise, and pads some blocks.
const MORE = 1.03;
const LESS = 0.93; // what is won is recorded, so that it cannot be lost again unseen

const RUNS: Record<string, Partial<FinetuneOptions>> = {
  full: { method: 'full' },
  'full in bf16': { method: 'full', precision: 'bf16' },
  'full, recomputed': { method: 'full', checkpointing: 'full' },
  'full, two micro-batches': { method: 'full', microBatch: 4, gradAccum: 2 },
  lora: { method: 'lora', loraRank: 4 },
  'lora in bf16': { method: 'lora', loraRank: 4, precision: 'bf16' },
};

let tiny: Tiny;
let widened: unknown;
beforeAll(async () => {
  tiny = await makeTiny();
  widened = call('shardloop::use_widened_products', true); // else the processor decides which ops a bf16 step has
});
afterAll(() => {
  call('shardloop::use_widened_products', widened as boolean);
  rmSync(tiny.folder, { recursive: true });
});

/** Of one step: what six steps cost more than two. The batches of steps 3 to 6 are the same in each run. */
async function costOf(options: Partial<FinetuneOptions>): Promise<Cost> {
  const of = (maxSteps: number) => countWork(() => tune(tiny, { ...options, maxSteps, epochs: 2, warmupSteps: 0 }));
  const [two, six] = [await of(2), await of(6)];
  const each = (key: keyof Cost) => Math.round((six[key] - two[key]) / 4);
  return { calls: each('calls'), allocations: each('allocations'), bytes: each('bytes') };
}

describe('one step', () => {
  const record = JSON.parse(readFileSync(RECORD, 'utf8')) as Record<string, Cost>;

  it.each(Object.entries(RUNS))('%s', async (name, options) => {
    const cost = await costOf(options);
    if (process.env.UPDATE) {
      record[name] = cost;
      writeFileSync(RECORD, `${JSON.stringify(record, null, 2)}\n`);
    }
    const known = record[name];
    if (!known) throw new Error(`no record of ${name}: run with UPDATE=1`);
    for (const key of ['calls', 'allocations', 'bytes'] as const) {
      const text = `${key} of a step: ${cost[key]}, recorded ${known[key]}`;
      expect(cost[key], `${text}. What made it dearer?`).toBeLessThanOrEqual(known[key] * MORE);
      expect(cost[key], `${text}. Record the gain with UPDATE=1.`).toBeGreaterThanOrEqual(known[key] * LESS);
    }
  });
});
