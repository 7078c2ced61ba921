// Fine-tuning, from a model folder and a file of records to an adapter or a new model folder. Reads like its own table
// of contents; what each line does is in the file that it comes from.
import type { z } from 'zod';
import type { Tensor } from '../core/index.js';
import { describeModel, loadModel, openWeights, saveModel } from '../models/index.js';
import { describeAdapter, saveAdapter } from '../peft/index.js';
import { addAdapter } from './adapter.js';
import { checkRunCall } from './call-check.js';
import { finetuneSchema } from './config.js';
import { resolveConfig } from './config-sources.js';
import { readExamples } from './examples.js';
import { trainLoop } from './loop.js';
import { checkFolders } from './option-check.js';
import { resultOf } from './out-folder.js';
import { weightDtype } from './precision.js';
import { closeRun, describeRun, openRun, type RunOptions, type RunResult, stopIfAsked, tell } from './run.js';
import { fillsShards } from './spread.js';

/** What {@link finetune} takes; see the schema for every key. */
export type FinetuneOptions = z.input<typeof finetuneSchema>;

/** See runs.ts, which loads this. */
export async function finetune(config: FinetuneOptions, options: RunOptions = {}): Promise<RunResult> {
  checkRunCall('finetune', config, options);
  const run = await openRun('finetune', resolveConfig(finetuneSchema, { flags: config }).config, options);
  const opened: { dispose(): void }[] = [];
  try {
    checkFolders(run.config);
    const dir = run.config.model;
    await stopIfAsked(run);
    const sharded = fillsShards(run.config, run.group);
    const device = sharded ? 'meta' : run.device;
    const { model, tokenizer } = await loadModel(dir, { dtype: weightDtype(run.config.precision), device });
    opened.push(model);
    if (run.config.method === 'lora') addAdapter(model, run.config, { device: run.device });
    else model.requiresGrad(true);
    const examples = await readExamples(run.config, tokenizer, model.config.n_positions);
    if (examples.note) tell(run, examples.note);
    await stopIfAsked(run);

    const path = resultOf(run.config);
    const isAdapter = run.config.method === 'lora';
    const weights = sharded ? await openWeights(dir) : null;
    if (weights) opened.push({ dispose: () => weights.close() });
    const fill = weights ? (name: string, into: Tensor) => weights.copy(name, into) : undefined;
    const summary = await trainLoop(run, { model, fill }, examples, {
      path,
      parameters: () => model.parameters().filter((t) => !isAdapter || t.requiresGrad),
      async describe(folder) {
        if (isAdapter) await describeAdapter(model, folder, { baseModel: run.config.model });
        else await describeModel(model, folder);
        await tokenizer.save(folder, { chatTemplate: examples.template });
      },
      async write() {
        if (isAdapter) await saveAdapter(model, path, { baseModel: run.config.model });
        else await saveModel(model, path);
        await tokenizer.save(path, { chatTemplate: examples.template });
      },
    });
    await describeRun(run, summary);
    return { rank: run.group.rank, summary };
  } finally {
    for (const each of opened.reverse()) each.dispose();
    await closeRun(run);
  }
}
