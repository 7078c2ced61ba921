// `shardloop pretrain`: train a GPT from random weights on text.
import { pretrainSchema } from '../train/config.js';
import { trainingCommand } from './training-command.js';

export const pretrainCommand = () =>
  trainingCommand({
    name: 'pretrain',
    description: 'Train a GPT-2-shaped model from random weights on text; leaves a Hugging Face folder in OUT/model.',
    schema: pretrainSchema,
    load: async () => (await import('../train/pretrain.js')).pretrain,
  });
