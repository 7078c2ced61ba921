// One rank of bench/memory.ts: makes a GPT-2, shards it, takes steps, and writes what it holds at every moment as one
// line of JSON, by the allocator's count and by the kernel's. Arguments: stage, layers, width, heads, vocabulary, tokens
// a row, micro-batches, backend, rank, size, the port of the store.
import { readFileSync, writeFileSync } from 'node:fs';
import {
  dist,
  GPT2LMHeadModel,
  manualSeed,
  memory,
  nn,
  optim,
  parallel,
  setNumThreads,
  type Tensor,
  tensor,
  trainStep,
} from 'shardloop';

/** What this process holds, in bytes, less what it held before the model. */
export interface Held {
  /** Of live tensors, by our allocator's count. */
  readonly counted: number;
  /** Resident by the kernel's count, without files; of what the ranks share (the slots of the shm backend), this rank's part. */
  readonly resident: number;
}

/** What a rank writes. */
export interface MemoryReport {
  readonly parameters: number;
  /** Of the segment that has most of them. */
  readonly largest: number;
  readonly moments: Readonly<Record<string, Held>>;
}

const [backend] = process.argv.splice(9, 1) as ['shm' | 'gloo'];
const numbers = process.argv.slice(2).map(Number) as [number, number, number, number, number, number, number];
const [stage, layers, width, heads, vocabulary, length, micro] = numbers;
const [rank, size, port] = numbers.slice(7) as [number, number, number];
setNumThreads(1);
const group = await dist.createGroup({
  ...{ backend, rank, size, store: { host: '127.0.0.1', port, serve: rank === 0 } },
  oneHost: true,
});

/** The shape of {@link layers} and so on, or one so small that it shows only what every run takes. */
function make(shape: { n_layer: number; n_embd: number; n_head: number; vocab_size: number }) {
  const rates = { resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0 };
  const model = new GPT2LMHeadModel(
    { ...shape, ...rates, n_positions: 1024 },
    { dtype: 'bfloat16', device: stage === 3 ? 'meta' : 'cpu' },
  );
  const segments = nn.segmentsOf(model);
  const names = new Map([...model.namedParameters()].map(([name, parameter]) => [parameter, name]));
  const fill = (parameter: Tensor, into: Tensor) =>
    nn.init.gpt2Parameter(names.get(parameter)!, into, { layers: shape.n_layer });
  const strategy = parallel.zero(segments, group, { stage: stage as 1 | 2 | 3, ...(stage === 3 ? { fill } : {}) });
  const groups = [{ params: parallel.partsOf(strategy, model.namedParameters()) }];
  const optimizer = new optim.MasterWeights({
    groups,
    optimizer: (masters) => new optim.AdamW({ groups: masters, lr: 1e-3 }),
  });
  const context = {
    ...{ segments, strategy, group, optimizer, parts: groups[0]!.params.map(([, part]) => part) },
    ...{ clip: 1, checkpointing: 'none' as const, precision: <T>(fn: () => T) => fn() },
  };
  const batch = () => {
    const ids = BigInt64Array.from({ length }, (_, i) => BigInt((i * 7919 + rank) % shape.vocab_size));
    const [input, targets] = [0, 1].map(() => tensor(ids, { shape: [1, length] })) as [Tensor, Tensor];
    return {
      input: model.inputs(input, { targets, divisor: length * size * micro }),
      lossOf: ([loss]: readonly Tensor[]) => loss!,
    };
  };
  const count = (tensors: Iterable<Tensor>) => [...tensors].reduce((sum, { numel }) => sum + numel, 0);
  const sizes = segments.map((one) => count(nn.segmentParameters(one)));
  return {
    parameters: count(model.parameters()),
    largest: Math.max(...sizes),
    step: () => trainStep(context, Array(micro).fill(batch)),
    dispose() {
      optimizer.dispose();
      strategy.dispose();
      model.dispose();
    },
  };
}

/** /proc/self/status in bytes. */
function resident(): Record<string, number> {
  const text = readFileSync('/proc/self/status', 'utf8');
  return Object.fromEntries(
    [...text.matchAll(/^(\w+):\s+(\d+) kB$/gm)].map(([, key, kB]) => [key!, Number(kB) * 1024]),
  );
}

manualSeed(1);
const small = make({ n_layer: 1, n_embd: 64, n_head: 1, vocab_size: 64 });
for (let i = 0; i < 3; i++) await small.step();
small.dispose();
globalThis.gc!();
const before = { counted: memory.allocatorStats().allocated, ...resident() } as Record<string, number>;

const report: Record<string, Held> = {};
/** What is held now, and the most since the last call; the same again when the heap has given back what is free. */
function note(name: string): void {
  const held = (counted: number, { RssAnon, RssShmem }: Record<string, number>): Held => ({
    counted: counted - before.counted!,
    resident: RssAnon! - before.RssAnon! + (RssShmem! - before.RssShmem!) / size,
  });
  const [stats, now] = [memory.allocatorStats(), resident()];
  // The kernel's peak is of all resident memory; files and shared memory do not change within a step.
  report[`${name}, peak`] = held(stats.peak, { ...now, RssAnon: now.VmHWM! - now.RssShmem! - now.RssFile! });
  report[name] = held(stats.allocated, now);
  globalThis.gc!(); // JavaScript's own heap is no part of what is compared
  memory.trim();
  report[`${name}, trimmed`] = held(stats.allocated, resident());
  forgetPeaks();
}

function forgetPeaks(): void {
  writeFileSync('/proc/self/clear_refs', '5'); // proc(5): resets VmHWM
  memory.resetPeak();
}

forgetPeaks();
const model = make({ n_layer: layers, n_embd: width, n_head: heads, vocab_size: vocabulary });
note('the model');
await model.step();
note('the first step');
for (let i = 0; i < 2; i++) await model.step();
note('two more steps');
model.dispose();
globalThis.gc!();
await new Promise((resolve) => setTimeout(resolve, 50)); // what the collector found is freed in a turn of its own
note('all of it freed');
const { parameters, largest } = model;
console.log(JSON.stringify({ parameters, largest, moments: report } satisfies MemoryReport));
await group.barrier().done();
await group.destroy();
