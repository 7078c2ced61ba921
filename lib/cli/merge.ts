// `shardloop merge`: a model folder and a LoRA adapter into one model folder.
import { Command, Option } from 'commander';
import { fail, printJson } from './exit.js';
import { requireFlags } from './options.js';

interface MergeFlags {
  model: string;
  adapter: string;
  out: string;
  precision?: 'fp32' | 'bf16';
  overwrite?: boolean;
  json?: boolean;
}

export const mergeCommand = () =>
  new Command('merge')
    .description('Add a LoRA adapter to the weights of its model and write the sum as a Hugging Face folder.')
    .option('--model <dir>', 'folder of the model that the adapter was trained on (required)')
    .option('--adapter <dir>', 'folder of the adapter (required)')
    .option('--out <dir>', 'folder to write (required)')
    .addOption(
      new Option('--precision <p>', "of the weights written (default: the checkpoint's)").choices(['fp32', 'bf16']),
    )
    .option('--overwrite', 'replace a model that the folder holds already')
    .option('--json', 'print one JSON object')
    .action(async (flags: MergeFlags) => {
      try {
        requireFlags(flags, 'model', 'adapter', 'out');
        const { mergeAdapter } = await import('../train/merge-adapter.js');
        const { json, ...options } = flags;
        const result = await mergeAdapter(options);
        if (json) printJson(result);
        else process.stdout.write(`${result.out}: ${result.merged} layers merged\n`);
      } catch (error) {
        fail(error, flags);
      }
    });
