// The smallest training loop: a GPT over the bytes of any text file, one process, nothing hidden.
//   npx tsx examples/loop.ts [FILE]
import { readFileSync } from 'node:fs';
import { GPT2LMHeadModel, optim, scope, tensor } from 'shardloop';

const text = readFileSync(process.argv[2] ?? 'examples/data/corpus.txt'); // the bytes are the tokens
if (text.length < 64) throw new Error(`expected a text of at least 64 bytes, received ${text.length}`);
const model = new GPT2LMHeadModel({ vocab_size: 256, n_positions: 64, n_embd: 64, n_layer: 2, n_head: 2 });
const optimizer = new optim.AdamW({ params: model.namedParameters(), lr: 3e-3 });

for (let step = 1; step <= 100; step++) {
  scope(() => {
    const starts = Array.from({ length: 8 }, () => Math.floor(Math.random() * (text.length - 64)));
    const rows = starts.map((start) => [...text.subarray(start, start + 64)]);
    const ids = tensor(rows, { dtype: 'int64' }); // (8, 64)
    const loss = model.loss(ids, ids); // the labels are shifted inside
    loss.backward();
    optim.clipGradNorm(model.parameters(), 1);
    optimizer.step();
    optimizer.zeroGrad();
    if (step % 10 === 0) console.log(`step ${step}  loss ${Number(loss.itemSync()).toFixed(3)}`);
  }); // every tensor made in here is freed
}
