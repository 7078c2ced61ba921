// A model folder and an adapter into one model folder: what `shardloop merge` does.
import { loadModel, saveModel } from '../models/index.js';
import { loadAdapter, loraLayers, mergeLora } from '../peft/index.js';
import { checkCall } from './call-check.js';
import { ownTemplate } from './generate-text.js';
import { requireFolder } from './in-folder.js';
import { refuseContent, refuseOverwriting } from './out-folder.js';

/** What {@link mergeAdapter} takes. */
export interface MergeOptions {
  /** The base model's folder. */
  model: string;
  /** The PEFT adapter's folder. */
  adapter: string;
  /** Where the merged model goes: a Hugging Face folder. */
  out: string;
  /** Default: the checkpoint's. */
  precision?: 'fp32' | 'bf16';
  /** Replace a model that `out` holds already (default: false, it is refused). */
  overwrite?: boolean;
}

const TAKES = {
  texts: ['model', 'adapter', 'out'],
  required: ['model', 'adapter', 'out'],
  choices: { precision: ['fp32', 'bf16'] },
  others: ['overwrite'],
};

/** See runs.ts, which loads this. */
export async function mergeAdapter(options: MergeOptions): Promise<{ out: string; merged: number }> {
  checkCall('mergeAdapter', options, TAKES);
  const dir = requireFolder('--model', options.model);
  const adapter = requireFolder('--adapter', options.adapter);
  refuseOverwriting('--out', options.out, { '--model': dir, '--adapter': adapter });
  refuseContent('--out', options.out, 'config.json', options.overwrite);
  const dtype = options.precision && ({ fp32: 'float32', bf16: 'bfloat16' } as const)[options.precision];
  const { model, tokenizer } = await loadModel(dir, { dtype });
  await loadAdapter(model, adapter, { dtype: 'float32' });
  mergeLora(model);
  const merged = loraLayers(model).length;
  const template = await ownTemplate(adapter, tokenizer);
  const withTemplate = { save: (to: string) => tokenizer.save(to, template ? { chatTemplate: template.source } : {}) };
  await saveModel(model, options.out, { tokenizer: withTemplate });
  model.dispose();
  return { out: options.out, merged };
}
