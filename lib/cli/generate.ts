// `shardloop generate`: continue a prompt with a model folder and, if asked, an adapter.
import { Command, InvalidArgumentError, Option } from 'commander';
import { fail, printJson } from './exit.js';
import { requireFlags } from './options.js';

interface GenerateFlags {
  model: string;
  adapter?: string;
  prompt: string;
  maxNewTokens: number;
  temperature: number;
  topK?: number;
  topP?: number;
  seed: number;
  raw?: boolean;
  template?: string;
  precision?: 'fp32' | 'bf16';
  device: 'auto' | 'cpu' | 'cuda';
  threads?: number;
  json?: boolean;
}

export const generateCommand = () =>
  new Command('generate')
    .description('Continue a prompt with a model folder and, if asked, a LoRA adapter.')
    .option('--model <dir>', 'folder of a GPT-2-shaped Hugging Face model (required)')
    .option('--adapter <dir>', 'folder of a LoRA adapter (adapter_config.json, adapter_model.safetensors)')
    .option('--prompt <text>', 'what to continue (required)')
    .option('--max-new-tokens <n>', 'how many tokens at most', whole(1), 128)
    .option('--temperature <x>', '0 always takes the likeliest token', number(0), 0)
    .option('--top-k <n>', 'sample among the k likeliest tokens', whole(1))
    .option('--top-p <x>', 'sample among the likeliest tokens that together have this probability', number(0, 1))
    .option('--seed <n>', 'of sampling', whole(0), 1)
    .option('--raw', 'feed the prompt as it is, without the chat template of the adapter or model')
    .option('--template <file>', 'a chat template (Jinja) in place of the one in the folder')
    .addOption(new Option('--precision <p>', "of the weights (default: the checkpoint's)").choices(['fp32', 'bf16']))
    .addOption(new Option('--device <d>', 'where to compute').choices(['auto', 'cpu', 'cuda']).default('auto'))
    .option('--threads <n>', 'CPU threads (default: all cores)', whole(1))
    .option(
      '--json',
      'print one JSON object: text, tokenIds (the new ones), promptTokenIds (all that was fed), finishReason',
    )
    .action(async (flags: GenerateFlags) => {
      try {
        requireFlags(flags, 'model', 'prompt');
        const { generateText } = await import('../train/generate-text.js');
        const { threads, json, ...options } = flags;
        const result = await generateText({ ...options, threads });
        if (json) printJson(result);
        else process.stdout.write(`${result.text}\n`);
        if (result.finishReason === 'context') {
          process.stderr.write('stopped here: the text is as long as this model can take\n');
        }
      } catch (error) {
        fail(error, flags);
      }
    });

/** A whole number of at least `least`, or a usage error. */
export function whole(least: number) {
  return (text: string): number => {
    const value = Number(text);
    if (/^[+-]?\d+$/.test(text) && Number.isSafeInteger(value) && value >= least) return value;
    throw new InvalidArgumentError(`Expected a whole number of at least ${least}.`);
  };
}

/** A number from `least` to `most`, or a usage error. */
export function number(least: number, most = Number.POSITIVE_INFINITY) {
  return (text: string): number => {
    const value = Number(text);
    if (text.trim() !== '' && Number.isFinite(value) && value >= least && value <= most) return value;
    throw new InvalidArgumentError(`Expected a number from ${least}${Number.isFinite(most) ? ` to ${most}` : ''}.`);
  };
}
