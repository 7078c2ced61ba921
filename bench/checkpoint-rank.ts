// One rank of bench/checkpoint.ts: a model, its optimizer and the parts of a checkpoint. Arguments: the model's folder, the
// folder to write to, rows a rank, tokens a row, rank, size, the port of the store. Commands on stdin, each answered
// with nanoseconds: `step N` one of N steps, `save` a checkpoint, `plain` the same bytes without checkpoint, `begin MB` the
// beginning of a save in the background at MB a second. `busy` says whether that goes on, `bytes` how many there are.
import { randomBytes } from 'node:crypto';
import { mkdirSync, rmSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { join } from 'node:path';
import { createInterface } from 'node:readline';
import {
  dist,
  io,
  loadModel,
  nn,
  ops,
  optim,
  parallel,
  scope,
  setNumThreads,
  type Tensor,
  tensor,
  trainStep,
} from 'shardloop';

const [folder, out, ...numbers] = process.argv.slice(2) as [string, string, ...string[]];
const [rows, length, rank, size, port] = numbers.map(Number) as [number, number, number, number, number];
setNumThreads(1);
const store = { host: '127.0.0.1', port, serve: rank === 0 };
const group = await dist.createGroup({ rank, size, store, oneHost: true });
const { model } = await loadModel(folder, { dtype: 'float32' });
model.train().requiresGrad(true);
const segments = nn.segmentsOf(model);
const strategy = parallel.zero(segments, group, { stage: 2 });
const named = model.namedParameters();
const params = parallel.partsOf(strategy, named);
const optimizer = new optim.AdamW({ params, lr: 1e-3 });
optimizer.prepare();
const context = {
  ...{ segments, strategy, group, optimizer, parts: params.map(([, part]) => part) },
  ...{ clip: 1, checkpointing: 'none' as const, precision: <T>(fn: () => T) => fn() },
};
const ids = BigInt64Array.from({ length: rows * length }, (_, i) =>
  BigInt((i * 7919 + rank) % model.config.vocab_size),
);
const make = () => ({
  input: model.inputs(tensor(ids, { shape: [rows, length] })),
  lossOf: ([logits]: readonly Tensor[]) =>
    scope(() =>
      ops.div(
        nn.crossEntropy(logits!, tensor(ids, { shape: [rows, length] }), { reduction: 'sum' }),
        rows * length * size,
      ),
    ),
});

/** This rank's part: parameters and moments, as lib/train saves them. */
function plan(): io.PartPlan {
  const parts = new Map<string, io.TensorPart>();
  for (const [name, parameter] of named) {
    const { tensor, start } = strategy.part(parameter);
    if (tensor.numel > 0) parts.set(name, { tensor, shape: parameter.shape, start });
  }
  const states = new Map<string, io.TensorPart>();
  const shapes = new Map(named.map(([name, t]) => [name, t] as const));
  for (const [key, t] of optimizer.stateDict().tensors) {
    const parameter = shapes.get(key.slice(0, key.lastIndexOf('.')))!;
    if (t.numel > 0) states.set(key, { tensor: t, shape: parameter.shape, start: strategy.part(parameter).start });
  }
  return io.planPart(rank, { model: parts, optimizer: states });
}

const elapsed = async (fn: () => Promise<unknown>): Promise<number> => {
  await group.barrier().done();
  const start = process.hrtime.bigint();
  await fn();
  await group.barrier().done();
  return Number(process.hrtime.bigint() - start);
};

/** A checkpoint as lib/train writes one. */
async function save(): Promise<void> {
  const pending = rank === 0 ? await io.beginCheckpoint(out, 1) : null;
  const path = await group.broadcastObject(pending?.path ?? '');
  const receipts = await group.allGatherObject(await io.writePart(path, plan()));
  if (pending) await io.commitCheckpoint(pending, { step: 1, receipts, state: null });
}

const bytes = [...plan().tensors.values()].reduce((sum, t) => sum + t.numel * 4, 0);
const content = randomBytes(bytes);

/** As many bytes in one new file a rank, written in pieces of 16 MB and synced: what the disk takes. */
async function plain(): Promise<void> {
  const file = await open(join(out, `plain-${rank}`), 'w');
  for (let at = 0; at < bytes; at += 16 << 20) await file.write(content, at, Math.min(16 << 20, bytes - at));
  await file.sync();
  await file.close();
}

/** Takes away what an earlier command wrote, and waits until the disk knows. Not measured. */
async function clear(): Promise<void> {
  if (rank === 0) {
    rmSync(out, { recursive: true, force: true });
    mkdirSync(out);
    const folder = await open(out);
    await folder.sync();
    await folder.close();
  }
  await group.barrier().done();
}

let background: io.BackgroundWrite | null = null;
let busy = 0;
for await (const line of createInterface({ input: process.stdin })) {
  const [command, value] = line.split(' ');
  if (command === 'bytes') console.log(bytes);
  else if (command === 'save' || command === 'plain') {
    await clear();
    console.log(await elapsed(command === 'save' ? save : plain));
  } else if (command === 'begin') {
    await clear();
    const took = await elapsed(async () => {
      background = io.writePartInBackground(out, plan(), { throttleMb: Number(value) });
    });
    busy = 1;
    void background!.written.then(() => {
      busy = 0;
    });
    console.log(took);
  } else if (command === 'busy') console.log(busy);
  else
    console.log(
      (await elapsed(async () => {
        for (let i = 0; i < Number(value); i++) await trainStep(context, [make]);
      })) / Number(value),
    );
}
await group.destroy();
