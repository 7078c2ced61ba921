// Our side of bench/step.ts: a training run in one process. Arguments: the model's folder, its
// precision (fp32, bf16), what trains (all, lora), rows, tokens a row, threads. Commands on stdin as contest.ts has them.
import { readFileSync } from 'node:fs';
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

const [folder, precision, what, ...numbers] = process.argv.slice(2) as [string, string, string, ...string[]];
const [rows, length, threads] = numbers.map(Number) as [number, number, number];
setNumThreads(threads);
const { model } = await loadModel(folder, { dtype: precision === 'bf16' ? 'bfloat16' : 'float32' });
model.train();
if (what === 'lora') await loadAdapter(model, join(folder, 'adapter'), { trainable: true });
else model.requiresGrad(true);
const segments = nn.segmentsOf(model);
const trained = model.namedParameters().filter(([, t]) => t.requiresGrad);
const groups = [{ params: parallel.partsOf(parallel.alone, trained) }];
const optimizer =
  precision === 'bf16'
    ? new optim.MasterWeights({ groups, optimizer: (masters) => new optim.AdamW({ groups: masters, lr: 1e-3 }) })
    : new optim.AdamW({ groups, lr: 1e-3 });
const context = {
  ...{ segments, strategy: parallel.alone, group: await dist.init(), optimizer },
  ...{ parts: groups[0]!.params.map(([, part]) => part), clip: 1, checkpointing: 'none' as const },
  precision: <T>(fn: () => T) => fn(),
};
const V = model.config.vocab_size;
// As in step.py: rows that differ, and that a model can learn.
const ids = BigInt64Array.from({ length: rows * length }, (_, i) => {
  const [row, at] = [Math.floor(i / length), i % length];
  return BigInt(((row + 1) * 7919 + at * (row + 3)) % V);
});
const targets = ids.map((_, i) => ids[i % length === length - 1 ? i : i + 1]!);
const make = () => {
  const [input, wanted] = [ids, targets].map((values) => tensor(values, { shape: [rows, length] })) as [Tensor, Tensor];
  return {
    input: model.inputs(input, { targets: wanted, divisor: rows * length }),
    lossOf: ([loss]: readonly Tensor[]) => loss!,
  };
};

let loss = Number.NaN;
for await (const line of createInterface({ input: process.stdin })) {
  const [command, count] = line.split(' ');
  if (command === 'check') console.log(loss);
  else if (command === 'memory') {
    const peak = /VmHWM:\s+(\d+) kB/.exec(readFileSync('/proc/self/status', 'utf8'))![1];
    console.log(Number(peak) * 1024);
  } else {
    const start = process.hrtime.bigint();
    for (let i = 0; i < Number(count); i++) loss = (await trainStep(context, [make])).loss;
    console.log(Number(process.hrtime.bigint() - start) / Number(count));
  }
}
