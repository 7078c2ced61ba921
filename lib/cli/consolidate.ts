// `shardloop consolidate`: a checkpoint into a model folder or an adapter folder.
import { Command } from 'commander';
import { fail, printJson } from './exit.js';

interface ConsolidateFlags {
  model?: string;
  overwrite?: boolean;
  json?: boolean;
}

export const consolidateCommand = () =>
  new Command('consolidate')
    .description(
      'Write the weights of a checkpoint, of any number of ranks, as a Hugging Face folder or an adapter folder.',
    )
    .argument('<checkpoint>', 'folder of the checkpoint, such as OUT/latest')
    .argument('<out>', 'folder to write')
    .option(
      '--model <dir>',
      "a model's folder: for its configuration and tokenizer, or as the base that an adapter names",
    )
    .option('--overwrite', 'replace a result that the folder holds already')
    .option('--json', 'print one JSON object')
    .action(async (checkpoint: string, out: string, flags: ConsolidateFlags) => {
      try {
        const { consolidate } = await import('../train/consolidate.js');
        const result = await consolidate({ checkpoint, out, model: flags.model, overwrite: flags.overwrite });
        if (flags.json) printJson(result);
        else
          process.stdout.write(`${result.out}: the ${result.kind} of step ${result.step}, ${result.tensors} tensors\n`);
      } catch (error) {
        fail(error, flags);
      }
    });
