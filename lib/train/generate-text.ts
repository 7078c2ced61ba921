// A prompt's continuation by a model folder and, if asked, an adapter: what `shardloop generate` does.

import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { isCudaAvailable, ShardloopError, setNumThreads } from '../core/index.js';
import { named } from '../core/option-names.js';
import { ChatTemplate, loadTokenizer, type Tokenizer } from '../data/index.js';
import { exists } from '../io/index.js';
import { type FinishReason, generate, loadModel } from '../models/index.js';
import { loadAdapter } from '../peft/index.js';
import { checkCall } from './call-check.js';
import { templateSource } from './examples.js';
import { requireFolder } from './in-folder.js';

/** What {@link generateText} takes. */
export interface GenerateTextOptions {
  /** A Hugging Face folder. */
  model: string;
  /** A PEFT adapter folder. */
  adapter?: string;
  /** The text to continue; a chat template is put around it unless `raw`. */
  prompt: string;
  /** The most tokens to make. Default 128. */
  maxNewTokens?: number;
  /** 0, the default, always takes the likeliest token. */
  temperature?: number;
  topK?: number;
  topP?: number;
  /** Of sampling. Default 1. */
  seed?: number;
  /** Feed the prompt as it is. */
  raw?: boolean;
  /** A file with a chat template, or `none` for the default one. */
  template?: string;
  /** Default: the checkpoint's. */
  precision?: 'fp32' | 'bf16';
  /** Default: auto, which takes CUDA where it can be used. */
  device?: 'auto' | 'cpu' | 'cuda';
  threads?: number;
  signal?: AbortSignal;
}

/** What {@link generateText} made. */
export interface GeneratedText {
  /** The new text alone. */
  text: string;
  /** The new tokens. */
  tokenIds: number[];
  /** All that was fed. */
  promptTokenIds: number[];
  /** Why it ends: the end token, `maxNewTokens`, or the longest sequence that the model takes. */
  finishReason: FinishReason;
}

const TAKES = {
  texts: ['model', 'adapter', 'prompt', 'template'],
  required: ['model', 'prompt'],
  choices: { precision: ['fp32', 'bf16'], device: ['auto', 'cpu', 'cuda'] },
  others: ['maxNewTokens', 'temperature', 'topK', 'topP', 'seed', 'raw', 'threads', 'signal'],
};

/** See runs.ts, which loads this. */
export async function generateText(options: GenerateTextOptions): Promise<GeneratedText> {
  checkCall('generateText', options, TAKES);
  const { adapter, prompt, maxNewTokens = 128, temperature = 0, topK, topP, seed = 1, signal } = options;
  setNumThreads(options.threads ?? availableParallelism());
  const dir = requireFolder('--model', options.model);
  const dtype = options.precision && ({ fp32: 'float32', bf16: 'bfloat16' } as const)[options.precision];
  const { model, tokenizer } = await loadModel(dir, {
    ...{ dtype, device: deviceOf(options.device ?? 'auto') },
    mapped: true, // copying would take as long as some twenty tokens
  });
  if (adapter !== undefined) await loadAdapter(model, requireFolder('--adapter', adapter));
  const template = options.raw ? null : await chooseTemplate(options, tokenizer);
  const promptTokenIds = template === null ? tokenizer.encode(prompt) : template.encodePrompt(prompt);
  let finishReason: FinishReason = 'length';
  const onFinish = (reason: FinishReason) => {
    finishReason = reason;
  };
  const how = { maxNewTokens, temperature, topK, topP, seed, signal, onFinish };
  const tokenIds = await generate(model, promptTokenIds, how);
  model.dispose();
  return { text: tokenizer.decode(tokenIds), tokenIds, promptTokenIds, finishReason };
}

/** The template that was asked for, the adapter's, the model's; null when there is none: the prompt is then fed as it is. */
async function chooseTemplate(
  { template, adapter }: GenerateTextOptions,
  tokenizer: Tokenizer,
): Promise<ChatTemplate | null> {
  if (template !== undefined) return new ChatTemplate(tokenizer, templateSource(template, tokenizer));
  const own = adapter === undefined ? null : await ownTemplate(adapter, tokenizer);
  if (own !== null) return own;
  return tokenizer.chatTemplate === null ? null : new ChatTemplate(tokenizer);
}

/** The chat template in an adapter's folder, if it has one. */
export async function ownTemplate(adapter: string, tokenizer: Tokenizer): Promise<ChatTemplate | null> {
  const beside = join(adapter, 'chat_template.jinja');
  if (await exists(beside)) return new ChatTemplate(tokenizer, templateSource(beside, tokenizer));
  if (!(await exists(join(adapter, 'tokenizer_config.json')))) return null;
  const own = await loadTokenizer(adapter).catch(() => null);
  return own?.chatTemplate ? new ChatTemplate(tokenizer, own.chatTemplate) : null;
}

function deviceOf(device: 'auto' | 'cpu' | 'cuda'): string {
  if (device === 'cpu' || (device === 'auto' && !isCudaAvailable())) return 'cpu';
  if (isCudaAvailable()) return 'cuda:0';
  throw new ShardloopError(
    'NO_CUDA',
    named('--device cuda: no CUDA device can be used here; `shardloop doctor` says why'),
  );
}
