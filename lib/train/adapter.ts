// A LoRA adapter by the options of a run. What addLora refuses is said of those options, not of its own.
import { ShardloopError } from '../core/index.js';
import { nameOf } from '../core/option-names.js';
import type { Module } from '../nn/index.js';
import { addLora, type LoraOptions } from '../peft/index.js';
import type { FinetuneConfig } from './config.js';

/** The options of an adapter by the keys that a run has for them. */
type AdapterConfig = Pick<FinetuneConfig, 'loraRank' | 'targetModules'> &
  Partial<Pick<FinetuneConfig, 'loraAlpha' | 'loraDropout'>>;

/** addLora's parameters, and the keys of a run that they come from. */
const KEYS = { rank: 'loraRank', alpha: 'loraAlpha', dropout: 'loraDropout', targetModules: 'targetModules' } as const;

/** Puts an adapter into the model. Throws BAD_CONFIG for an option that does not fit it. */
export function addAdapter(model: Module, config: AdapterConfig, where: Pick<LoraOptions, 'device'> = {}): void {
  const { loraRank: rank, loraAlpha: alpha, loraDropout: dropout, targetModules } = config;
  try {
    addLora(model, { rank, alpha, dropout, targetModules, ...where });
  } catch (cause) {
    const [, option, said] = /^(?:addLora: )?(\w+): (.*)$/s.exec((cause as Error).message) ?? [];
    if (!(cause instanceof ShardloopError) || !(option! in KEYS)) throw cause;
    throw new ShardloopError('BAD_CONFIG', `${nameOf(KEYS[option as keyof typeof KEYS])}: ${said}`, { cause });
  }
}
