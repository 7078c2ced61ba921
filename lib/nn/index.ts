// The names of `nn`, as in `import { nn } from 'shardloop'`.
export { GELU, type GeluApproximation, type GeluOptions, gelu, SiLU, silu } from './activations.js';
export { type AdapterLayer, isAdapterLayer } from './adapter.js';
export { type AffineOptions, affine, type GeluFirst, geluAffine, isGeluFirst } from './affine.js';
export {
  type AttentionOptions,
  attention,
  SelfAttention,
  type SelfAttentionOptions,
  selfAttention,
} from './attention.js';
export { type CachedAttentionOptions, cachedAttention } from './cached-attention.js';
export { Conv1D } from './conv1d.js';
export { Dropout } from './dropout.js';
export { Embedding, type EmbeddingOptions } from './embedding.js';
export { hasFusedOps } from './fused.js';
export * as init from './init.js';
export { Linear, type LinearOptions } from './linear.js';
export {
  type CrossEntropyOptions,
  crossEntropy,
  type LinearCrossEntropyOptions,
  linearCrossEntropy,
  mse,
  type Reduction,
} from './loss.js';
export { Module, type UnaryModule } from './module.js';
export { LayerNorm, type LayerNormOptions, RMSNorm, type RMSNormOptions } from './norm.js';
export type { TensorOptions } from './options.js';
export { type Buffer, buffer, type Parameter, parameter } from './parameter.js';
export { type Carry, cut, type Segment, segment, segmentParameters, segmentsOf } from './segment.js';
export { type LoadOptions, type LoadResult, replaceTensors } from './state.js';
