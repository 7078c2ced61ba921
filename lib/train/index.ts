// The names of lib/train.
export { type FinetuneConfig, finetuneSchema, type PretrainConfig, pretrainSchema } from './config.js';
export { type Consolidated, type ConsolidateOptions, consolidate } from './consolidate.js';
export { type FinetuneOptions, finetune } from './finetune.js';
export { type GeneratedText, type GenerateTextOptions, generateText } from './generate-text.js';
export { type MergeOptions, mergeAdapter } from './merge-adapter.js';
export type { MetricsSink, StepMetrics } from './metrics.js';
export { microBatches } from './micro-batch.js';
export { type PretrainOptions, pretrain } from './pretrain.js';
export type { RunOptions, RunPhase, RunResult } from './run.js';
export { type MicroBatch, type StepContext, type StepResult, trainStep } from './step.js';
export type { RunSummary } from './summary.js';
