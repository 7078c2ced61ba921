// LoRA by hand on a model folder and a file of dialogues, on any number of ranks; leaves an adapter that PEFT loads:
//   npx tsx examples/finetune.ts MODEL_DIR examples/data/dialogues.json OUT_DIR
// `shardloop finetune` is this, with options, evaluation, checkpoints and metrics.
import { addLora, data, dist, loadModel, microBatches, nn, optim, parallel, saveAdapter, trainStep } from 'shardloop';

const [dir = 'out/pretrain', file = 'examples/data/dialogues.json', out = 'out/adapter', epochs = '1'] =
  process.argv.slice(2);
const group = await dist.init();

const { model, tokenizer } = await loadModel(dir, { dtype: 'float32' });
addLora(model, { rank: 8, alpha: 16, targetModules: 'all-linear' }); // from here on only the adapter trains
const trainable = model.namedParameters().filter(([, t]) => t.requiresGrad);

const records = await data.loadRecords(file); // a bad record stops here, with file and line
const { examples } = data.encodeRecords(records, tokenizer, { seqLen: model.config.n_positions });
const batches = new data.BatchSource(data.exampleSequences(examples), {
  ...{
    microBatch: 8,
    rank: group.rank,
    worldSize: group.size,
    seed: 1,
    epochs: Number(epochs),
    padId: tokenizer.padId,
  },
});

const optimizer = new optim.AdamW({ params: trainable, lr: 5e-3, weightDecay: 0 });
const schedule = new optim.Schedule(optimizer, optim.linear({ warmup: 5, total: batches.totalSteps }));
const segments = nn.segmentsOf(model);
const context = {
  ...{ segments, strategy: parallel.replicate(segments, group), group, optimizer },
  ...{ parts: trainable.map(([, t]) => t), clip: 1, checkpointing: 'none' as const },
  precision: <T>(fn: () => T) => fn(),
};

model.train();
for (const batch of batches) {
  const { loss } = await trainStep(context, microBatches(model, batch, 'cpu'));
  schedule.advance();
  if (group.rank === 0) console.log(`step ${batch.step}/${batches.totalSteps}  loss ${loss.toFixed(3)}`);
}
if (group.rank === 0) await saveAdapter(model, out);
await group.destroy();
