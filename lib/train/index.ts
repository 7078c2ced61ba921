// The names of lib/train.
export type { FinetuneConfig, PretrainConfig } from './config.js';
export type { Consolidated, ConsolidateOptions } from './consolidate.js';
export type { FinetuneOptions } from './finetune.js';
export type { GeneratedText, GenerateTextOptions } from './generate-text.js';
export type { MergeOptions } from './merge-adapter.js';
export type { MetricsSink, StepMetrics } from './metrics.js';
export { microBatches } from './micro-batch.js';
export type { PretrainOptions } from './pretrain.js';
export type { RunOptions, RunPhase, RunResult } from './run.js';
export { consolidate, finetune, generateText, mergeAdapter, pretrain } from './runs.js';
export { type MicroBatch, type StepContext, type StepResult, trainStep } from './step.js';
export type { RunSummary } from './summary.js';
