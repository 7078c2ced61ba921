// Pretraining, from a text file to a model folder. Reads like its own table of contents; what each line does is in the
// file that it comes from.
import { join } from 'node:path';
import type { z } from 'zod';
import { byteTokenizer, loadTokenizer, type Tokenizer } from '../data/index.js';
import { describeModel, GPT2LMHeadModel, saveModel } from '../models/index.js';
import { init } from '../nn/index.js';
import { checkRunCall } from './call-check.js';
import { type PretrainConfig, pretrainSchema } from './config.js';
import { resolveConfig } from './config-sources.js';
import { type TrainingModel, trainLoop } from './loop.js';
import { checkFolders } from './option-check.js';
import { weightDtype } from './precision.js';
import { closeRun, describeRun, openRun, type Run, type RunOptions, type RunResult, stopIfAsked } from './run.js';
import { fillsShards } from './spread.js';
import { readText } from './text.js';

/** What {@link pretrain} takes; see the schema for every key. */
export type PretrainOptions = z.input<typeof pretrainSchema>;

/** See runs.ts, which loads this. */
export async function pretrain(config: PretrainOptions, options: RunOptions = {}): Promise<RunResult> {
  checkRunCall('pretrain', config, options);
  const run = await openRun('pretrain', resolveConfig(pretrainSchema, { flags: config }).config, options);
  const opened: { dispose(): void }[] = [];
  try {
    checkFolders(run.config);
    await stopIfAsked(run);
    const tokenizer = await chooseTokenizer(run.config.tokenizer);
    const text = await readText(run.config, tokenizer);
    await stopIfAsked(run);
    const made = makeModel(run, tokenizer);
    const { model } = made;
    opened.push(model);

    const path = join(run.config.out, 'model');
    const summary = await trainLoop(run, made, text, {
      path,
      parameters: () => model.parameters(),
      describe: (folder) => describeModel(model, folder, { tokenizer }),
      write: () => saveModel(model, path, { tokenizer }),
    });
    await describeRun(run, summary);
    return { rank: run.group.rank, summary };
  } finally {
    for (const each of opened.reverse()) each.dispose();
    await closeRun(run);
  }
}

async function chooseTokenizer(name: string): Promise<Tokenizer> {
  return name === 'byte' ? byteTokenizer() : await loadTokenizer(name);
}

/** The same weights on every rank: the random state was seeded alike. Where they are sharded they are drawn later. */
function makeModel({ config, device, group }: Run<PretrainConfig>, tokenizer: Tokenizer): TrainingModel {
  const { layers, heads, width, dropout, seqLen } = config;
  const shape = { n_layer: layers, n_head: heads, n_embd: width, n_positions: seqLen, vocab_size: tokenizer.vocabSize };
  const dropouts = { resid_pdrop: dropout, embd_pdrop: dropout, attn_pdrop: dropout };
  const tokens = { bos_token_id: tokenizer.bosId, eos_token_id: tokenizer.eosId, pad_token_id: tokenizer.padId };
  const dtype = weightDtype(config.precision);
  const sharded = fillsShards(config, group);
  const model = new GPT2LMHeadModel({ ...shape, ...dropouts, ...tokens }, { dtype, device: sharded ? 'meta' : device });
  if (!sharded) return { model };
  const options = { layers, std: model.config.initializer_range };
  return { model, fill: (name, into) => init.gpt2Parameter(name, into, options) };
}
