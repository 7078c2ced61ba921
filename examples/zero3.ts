// ZeRO-3 by hand: no rank holds the model, its gradients or its optimizer states whole.
//   npx shardloop launch --nproc-per-node 2 examples/zero3.ts
// Each rank updates its part of every parameter; a segment's parameters are whole only while the segment runs.
import { readFileSync } from 'node:fs';
import { data, dist, GPT2LMHeadModel, manualSeed, nn, ops, optim, parallel, type Tensor, tensor } from 'shardloop';

const [B, T] = [8, 64];
const steps = Number(process.argv[2] ?? 100);
const group = await dist.init();
const bytes = readFileSync(new URL('./data/corpus.txt', import.meta.url)); // the bytes are the tokens
manualSeed(1);
const model = new GPT2LMHeadModel({ vocab_size: 256, n_positions: T, n_embd: 64, n_layer: 4, n_head: 4 });
const segments = nn.segmentsOf(model); // embedding, blocks, head
const strategy = parallel.zero(segments, group, { stage: 3 }); // from here on the parameters are sharded
const optimizer = new optim.AdamW({ params: parallel.partsOf(strategy, model.namedParameters()), lr: 3e-3 });
const parts = optimizer.groups.flatMap(({ params }) => params);
const random = new data.DataRandom(1, group.rank); // other rows on every rank

for (let step = 1; step <= steps; step++) {
  const starts = Array.from({ length: B }, () => random.below(bytes.length - T - 1));
  const rows = (shift: number) => starts.map((at) => [...bytes.subarray(at + shift, at + shift + T)]);
  const ids = tensor(rows(0), { dtype: 'int64' }); // (B, T)
  const targets = tensor(rows(1), { dtype: 'int64' }); // (B, T): the next byte
  const lossOf = ([logits]: readonly Tensor[]) => ops.div(nn.crossEntropy(logits!, targets), group.size); // this rank's share
  await strategy.begin(segments); // no gradients, also none of a step that failed
  const loss = parallel.runSegments(segments, model.inputs(ids), lossOf, { strategy }); // gathers, releases, reduces
  await strategy.finish(); // every part has its gradient
  const norm = Math.sqrt(await strategy.sumOverParts(optim.gradNorm(parts) ** 2));
  optimizer.step({ gradScale: optim.clipCoefficient(norm, 1) });
  strategy.updated(); // the next gather brings the new values
  optimizer.zeroGrad();
  const total = await group.sum(Number(loss.itemSync()));
  for (const t of [ids, targets, loss]) t.dispose();
  if (group.rank === 0 && step % 10 === 0) console.log(`step ${step}  loss ${total.toFixed(3)}`);
}
await group.destroy();
