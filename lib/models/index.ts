// The names of lib/models for the folders above.
export { type CausalModel, type FinishReason, type GenerateOptions, generate } from './generate.js';
export { type GPT2Config, gpt2Config } from './gpt2/config.js';
export { type GPT2ForwardOptions, GPT2LMHeadModel, type GPT2Options } from './gpt2/model.js';
export { gpt2ParameterCount, gpt2Plan, type PlannedParameter } from './gpt2/plan.js';
export { KVCache, type KVCacheOptions } from './kv-cache.js';
export {
  describeModel,
  type LoadedModel,
  type LoadModelOptions,
  loadModel,
  loadShape,
  openWeights,
  type SaveModelOptions,
  saveModel,
  type Weights,
} from './load.js';
