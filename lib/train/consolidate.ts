// A checkpoint of any number of ranks to what a run leaves behind: a model folder, or an adapter folder for LoRA. What
// `shardloop consolidate` does, on one process, a piece of a tensor at a time.
import { readFile } from 'node:fs/promises';
import { join } from 'node:path';
import { makeFolder } from '../core/folders.js';
import { ShardloopError } from '../core/index.js';
import { forCommand, named } from '../core/option-names.js';
import { loadTokenizer } from '../data/index.js';
import { type Checkpoint, type LazyTensor, openCheckpoint, RESULT, writeFileAtomic } from '../io/index.js';
import { loadShape, saveModel } from '../models/index.js';
import { writeAdapterTensors } from '../peft/index.js';
import { checkCall } from './call-check.js';
import { requireFolder } from './in-folder.js';
import type { Origin } from './origin.js';
import { refuseContent, refuseOverwriting, refuseWithin } from './out-folder.js';

/** What {@link consolidate} takes. */
export interface ConsolidateOptions {
  /** A checkpoint's folder, such as `OUT/latest`. */
  checkpoint: string;
  /** Where the result goes. */
  out: string;
  /**
   * A model folder. Of a model: configuration and tokenizer are taken from it instead of the checkpoint, which in format 1
   * holds none. Of an adapter: the base model that its configuration names.
   */
  model?: string;
  /** Replace a result that `out` holds already (default: false, it is refused). */
  overwrite?: boolean;
}

/** What {@link consolidate} wrote. */
export interface Consolidated {
  out: string;
  kind: 'model' | 'adapter';
  /** The step of the checkpoint. */
  step: number;
  tensors: number;
}

const TAKES = { texts: ['checkpoint', 'out', 'model'], required: ['checkpoint', 'out'], others: ['overwrite'] };

/** See runs.ts, which loads this. */
export async function consolidate(options: ConsolidateOptions): Promise<Consolidated> {
  checkCall('consolidate', options, TAKES);
  const { out, model } = options;
  const [from, to] = [forCommand('CHECKPOINT', 'checkpoint'), forCommand('OUT', 'out')];
  const path = requireFolder(from, options.checkpoint);
  if (model !== undefined) requireFolder('--model', model);
  refuseOverwriting(to, out, { [from]: path, ...(model === undefined ? {} : { '--model': model }) });
  refuseWithin(to, out, from, path);
  const checkpoint = await openCheckpoint(path);
  try {
    const isAdapter = checkpoint.result.includes('adapter_config.json');
    refuseContent(to, out, isAdapter ? 'adapter_config.json' : 'config.json', options.overwrite);
    const tensors = lazily(checkpoint);
    if (isAdapter) await writeAdapter(checkpoint, tensors, out, model);
    else await writeModel(checkpoint, tensors, out, model);
    return { out, kind: isAdapter ? 'adapter' : 'model', step: checkpoint.step, tensors: tensors.size };
  } finally {
    checkpoint.close();
  }
}

/** The parameters of a checkpoint, read when they are written. */
function lazily(checkpoint: Checkpoint): Map<string, LazyTensor> {
  return new Map(
    [...checkpoint.specs('model')].map(([name, { dtype, shape }]) => {
      const numel = shape.reduce((product, size) => product * size, 1);
      const read = (start: number, end: number) => {
        checkpoint.release(); // what was read before leaves memory
        return checkpoint.elements('model', name, start, end);
      };
      return [name, { dtype, shape, numel, read }];
    }),
  );
}

async function writeModel(
  checkpoint: Checkpoint,
  stateDict: Map<string, LazyTensor>,
  out: string,
  from?: string,
): Promise<void> {
  const own = join(checkpoint.path, RESULT);
  const { options } = (checkpoint.state as { origin?: Origin } | null)?.origin ?? {};
  if (options?.method === '"lora"') throw tooLittle(checkpoint, 'resume it, and consolidate a newer one of that run');
  if (from === undefined && !checkpoint.result.includes('config.json'))
    throw tooLittle(checkpoint, named('name --model'));
  const shape = await loadShape(from ?? own);
  const tokenizer = from === undefined ? { save: copyOthers(checkpoint) } : await loadTokenizer(from);
  await saveModel(shape, out, { stateDict, tokenizer });
}

async function writeAdapter(
  checkpoint: Checkpoint,
  tensors: Map<string, LazyTensor>,
  out: string,
  base?: string,
): Promise<void> {
  const path = join(checkpoint.path, RESULT, 'adapter_config.json');
  const config = JSON.parse(await readFile(path, 'utf8')) as Record<string, unknown>;
  if (base !== undefined) config.base_model_name_or_path = base;
  await writeAdapterTensors(out, tensors);
  await copyOthers(checkpoint)(out);
  await writeFileAtomic(join(out, 'adapter_config.json'), `${JSON.stringify(config, null, 2)}\n`);
}

/** Copies what the result consists of but for its configurations: the tokenizer. */
function copyOthers({ path, result }: Checkpoint): (dir: string) => Promise<void> {
  const others = result.filter((name) => !/^(adapter_|generation_)?config\.json$/.test(name));
  return async (dir) => {
    makeFolder(dir);
    for (const name of others) await writeFileAtomic(join(dir, name), await readFile(join(path, RESULT, name)));
  };
}

function tooLittle({ path }: Checkpoint, advice: string): ShardloopError {
  return new ShardloopError(
    'BAD_CHECKPOINT',
    `${path}: expected a checkpoint that holds the configuration of its result (format 2), received one without; ${advice}`,
  );
}
