// A GPT from random weights, on any number of ranks, with the loop in plain sight:
//   npx tsx examples/pretrain.ts                                     one rank
//   npx shardloop launch --nproc-per-node 2 examples/pretrain.ts     two
// `shardloop pretrain` is this, with options, checkpoints and metrics.
import { readFileSync } from 'node:fs';
import {
  data,
  dist,
  GPT2LMHeadModel,
  manualSeed,
  microBatches,
  nn,
  optim,
  parallel,
  saveModel,
  trainStep,
} from 'shardloop';

const steps = Number(process.argv[2] ?? 200);
const out = process.argv[3] ?? 'out/pretrain';
const group = await dist.init(); // the launcher's ranks, or a group of one
const tokenizer = data.byteTokenizer();

// The text as blocks of 128 tokens; each step's global batch is shared out over the ranks.
const text = readFileSync(new URL('./data/corpus.txt', import.meta.url), 'utf8');
const blocks = data.textBlocks(Int32Array.from(tokenizer.encode(text)), { seqLen: 128 });
const batches = new data.BatchSource(blocks, { microBatch: 8, rank: group.rank, worldSize: group.size, seed: 1 });

manualSeed(1); // the same weights on every rank
const model = new GPT2LMHeadModel({
  ...{ vocab_size: tokenizer.vocabSize, n_positions: 128, n_embd: 128, n_layer: 4, n_head: 4 },
  ...{ resid_pdrop: 0, embd_pdrop: 0, attn_pdrop: 0, eos_token_id: tokenizer.eosId, bos_token_id: tokenizer.bosId },
});
const optimizer = new optim.AdamW({
  groups: optim.decayGroups(model.namedParameters(), { weightDecay: 0.1 }),
  ...{ lr: 2e-3, betas: [0.9, 0.95] as const },
});
const schedule = new optim.Schedule(optimizer, optim.cosine({ warmup: 10, total: steps, final: 0.1 }));
const segments = nn.segmentsOf(model); // embedding, blocks, head: gradients travel while the backward goes on
const strategy = parallel.replicate(segments, group);
const context = {
  ...{ segments, strategy, group, optimizer, parts: model.parameters() },
  ...{ clip: 1, checkpointing: 'none' as const, precision: <T>(fn: () => T) => fn() },
};

for (let step = 1; step <= steps; step++) {
  const batch = batches.next()!;
  const { loss, gradNorm } = await trainStep(context, microBatches(model, batch, 'cpu'));
  schedule.advance();
  if (group.rank === 0 && step % 10 === 0) {
    console.log(
      `step ${step}  loss ${loss.toFixed(3)}  lr ${schedule.lr.toExponential(1)}  |g| ${gradNorm.toFixed(2)}`,
    );
  }
}
if (group.rank === 0) await saveModel(model, out, { tokenizer });
await group.destroy();
