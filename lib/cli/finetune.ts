// `shardloop finetune`: tune a model folder on a file of records.
import { finetuneSchema } from '../train/config.js';
import { trainingCommand } from './training-command.js';

export const finetuneCommand = () =>
  trainingCommand({
    name: 'finetune',
    description: 'Tune a GPT-2-shaped Hugging Face model on a file of records; leaves OUT/adapter (lora) or OUT/model.',
    schema: finetuneSchema,
    load: async () => (await import('../train/finetune.js')).finetune,
  });
