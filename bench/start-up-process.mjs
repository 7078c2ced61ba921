// Our side of bench/start-up.ts: a fresh process that says `done` after the first token of a model folder (`token`) or
// the first training step of a small GPT (`step`). Plain JavaScript, as an installed program is.
const [what, folder] = process.argv.slice(2);
if (what === 'token') {
  const { generate, loadModel, setNumThreads } = await import('shardloop');
  setNumThreads(2);
  const { model } = await loadModel(folder, { tokenizer: false, mapped: true });
  await generate(model, [464, 2068, 7586], { maxNewTokens: 1, eos: null });
} else {
  const { GPT2LMHeadModel, noGrad, optim, randint, setNumThreads } = await import('shardloop');
  setNumThreads(2);
  const model = new GPT2LMHeadModel({ n_layer: 6, n_head: 6, n_embd: 384, vocab_size: 256, n_positions: 256 });
  const optimizer = new optim.AdamW({ groups: [{ params: model.namedParameters() }], lr: 1e-3 });
  const ids = noGrad(() => randint(0, 256, [1, 256]));
  model.loss(ids, ids).backward();
  optimizer.step();
}
console.log('done');
