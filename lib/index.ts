// The public exports of shardloop, by name. Not here: any code.

export { type BackwardOptions, backward, type GradOptions, grad } from './core/backward.js';
export { call, type OpArgument, opSchemas } from './core/call.js';
export { customFunction, type FunctionContext, type FunctionDefinition } from './core/custom-function.js';
export {
  cpuCapability,
  cudaDeviceCount,
  cudaDeviceName,
  isCudaAvailable,
  libtorchVersion,
  synchronize,
} from './core/devices.js';
export {
  DTYPES,
  type DType,
  dtypeBytes,
  isDType,
  type Layout,
  type MemoryFormat,
  type TypedArray,
} from './core/dtype.js';
export { ERRORS, type ErrorCode, ShardloopError } from './core/errors.js';
export { Generator } from './core/generator.js';
export * as memory from './core/memory.js';
export {
  type AutocastOptions,
  autocast,
  enableGrad,
  getNumThreads,
  isAutocastEnabled,
  isDeterministic,
  isGradEnabled,
  noGrad,
  profileRange,
  setDeterministic,
  setNumThreads,
} from './core/modes.js';
export type { Int, Scalar } from './core/op-support.js';
export * as ops from './core/ops.js';
export { getRandomState, manualSeed, setRandomState } from './core/random.js';
export { disposeAll, keep, scope } from './core/scope.js';
export { type Span, span } from './core/spans.js';
export {
  arange,
  type Complex,
  type CreateOptions,
  empty,
  eye,
  full,
  type Index,
  type Item,
  isTensor,
  type Nested,
  ones,
  type RandomOptions,
  rand,
  randint,
  randn,
  Slice,
  slice,
  Tensor,
  type TensorData,
  tensor,
  zeros,
} from './core/tensor.js';
export { countWork, type WorkCount } from './core/work-count.js';

// Layers, optimizers, data, process groups, strategies and files, each as a namespace: nn.Linear, optim.AdamW, dist.init.
export * as data from './data/index.js';
export * as dist from './dist/index.js';
export * as io from './io/index.js';
// Models and adapters.
export {
  type CausalModel,
  type FinishReason,
  type GenerateOptions,
  type GPT2Config,
  type GPT2ForwardOptions,
  GPT2LMHeadModel,
  type GPT2Options,
  generate,
  KVCache,
  type LoadedModel,
  type LoadModelOptions,
  loadModel,
  type SaveModelOptions,
  saveModel,
} from './models/index.js';
export * as nn from './nn/index.js';
export * as optim from './optim/index.js';
export * as parallel from './parallel/index.js';
export {
  type AdapterConfig,
  addLora,
  type LoadAdapterOptions,
  LoraLinear,
  type LoraOptions,
  loadAdapter,
  mergeLora,
  removeLora,
  type SaveAdapterOptions,
  saveAdapter,
  type TargetModules,
  unmergeLora,
} from './peft/index.js';

// Whole runs, and the step that they repeat.
export {
  type Consolidated,
  type ConsolidateOptions,
  consolidate,
  type FinetuneOptions,
  finetune,
  type GeneratedText,
  type GenerateTextOptions,
  generateText,
  type MergeOptions,
  type MetricsSink,
  type MicroBatch,
  mergeAdapter,
  microBatches,
  type PretrainOptions,
  pretrain,
  type RunOptions,
  type RunPhase,
  type RunResult,
  type RunSummary,
  type StepContext,
  type StepMetrics,
  type StepResult,
  trainStep,
} from './train/index.js';
