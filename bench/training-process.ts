// Our side of bench/step.ts, zero.ts and overlap.ts: one process of a training run. Arguments: the way (alone, ddp, zero1, zero2,
// zero3), the model's folder, its precision (fp32, bf16), what trains (all, lora), rows of this process, tokens a row, threads; and
// but for `alone` rank, size and the port of the store. SHARDLOOP_BENCH_BACKEND names a backend. Commands on stdin as contest.ts
// has them, and `timeline N FILE`, a `step N` whose timeline rank 0 writes.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import {
  dist,
  loadAdapter,
  loadModel,
  nn,
  optim,
  parallel,
  setNumThreads,
  type Tensor,
  tensor,
  trainStep,
} from 'shardloop';

const [way, folder, precision, what, ...rest] = process.argv.slice(2) as [string, string, string, string, ...string[]];
const [rows, length, threads, rank = 0, size = 1, port = 0] = rest.map(Number) as [number, number, number];
setNumThreads(threads);
const isAlone = way === 'alone';
const group = isAlone
  ? await dist.init()
  : await dist.createGroup({
      backend: process.env.SHARDLOOP_BENCH_BACKEND as 'shm' | 'gloo' | undefined,
      ...{ rank, size, store: { host: '127.0.0.1', port, serve: rank === 0 } },
      oneHost: true,
    });
const { model } = await loadModel(folder, { dtype: precision === 'bf16' ? 'bfloat16' : 'float32' });
model.train();
if (what === 'lora') await loadAdapter(model, join(folder, 'adapter'), { trainable: true });
else model.requiresGrad(true);
const segments = nn.segmentsOf(model);
const strategy = spread();
const trained = model.namedParameters().filter(([, parameter]) => parameter.requiresGrad);
const groups = [{ params: parallel.partsOf(strategy, trained) }];
const optimizer =
  precision === 'bf16'
    ? new optim.MasterWeights({ groups, optimizer: (masters) => new optim.AdamW({ groups: masters, lr: 1e-3 }) })
    : new optim.AdamW({ groups, lr: 1e-3 });
const context = {
  ...{ segments, strategy, group, optimizer, parts: groups[0]!.params.map(([, part]) => part) },
  ...{ clip: 1, checkpointing: 'none' as const, precision: <T>(fn: () => T) => fn() },
};
const V = model.config.vocab_size;
// As in step.py and training.py: rows that differ, and that a model can learn.
const id = (row: number, at: number) => BigInt(((row + 1) * 7919 + at * (row + 3)) % V);
const ids = BigInt64Array.from({ length: rows * length }, (_, i) =>
  id(rank * rows + Math.floor(i / length), i % length),
);
const targets = ids.map((_, i) => ids[i % length === length - 1 ? i : i + 1]!);
const make = () => {
  const [input, wanted] = [ids, targets].map((values) => tensor(values, { shape: [rows, length] })) as [Tensor, Tensor];
  return {
    input: model.inputs(input, { targets: wanted, divisor: rows * length * size }),
    lossOf: ([loss]: readonly Tensor[]) => loss!,
  };
};

let loss = Number.NaN;
for await (const line of createInterface({ input: process.stdin })) {
  const [command, count, file] = line.split(' ');
  if (command === 'check') console.log(loss);
  else if (command === 'memory') {
    const peak = /VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))![1];
    console.log(Number(peak) * 1024);
  } else {
    if (!isAlone) await group.barrier().done();
    const timeline = command === 'timeline' ? dist.startTimeline() : null;
    const start = process.hrtime.bigint();
    for (let i = 0; i < Number(count); i++) loss = (await trainStep(context, [make])).loss;
    const time = Number(process.hrtime.bigint() - start);
    const ranks = await timeline?.take(group);
    if (ranks) writeFileSync(file!, JSON.stringify(ranks));
    console.log(time / Number(count));
  }
}
if (!isAlone) await group.destroy();

function spread(): parallel.Strategy {
  if (isAlone) return parallel.alone;
  if (way === 'ddp') return parallel.replicate(segments, group);
  return parallel.zero(segments, group, { stage: Number(way.slice(-1)) as 1 | 2 | 3 });
}
