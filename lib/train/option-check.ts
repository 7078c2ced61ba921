// Whether the options of a run fit each other, the number of ranks and the folders that they name. Asked before anything
// is started or loaded, so that a command says it once, whatever the ranks. What one option may be is config.ts's.
import { ShardloopError } from '../core/errors.js';
import { named, words } from '../core/option-names.js';
import type { FinetuneConfig, PretrainConfig, TrainingConfig } from './config.js';
import { requireFolder } from './in-folder.js';
import { refuseFile, refuseOverwriting, requireWritable, resultOf } from './out-folder.js';

/** The options that decide how a model is spread over the ranks. */
export type SpreadConfig = Pick<
  TrainingConfig,
  'zero' | 'shardRanks' | 'optimizer' | 'reduceDtype' | 'compress' | 'compressRatio' | 'bucketMb'
> &
  Partial<Pick<TrainingConfig, 'offload' | 'device'>>;

/** What --save-best lacks where nothing is scored. */
export const nothingScored = () =>
  words`--save-best needs held-out records that are scored between steps: expected --eval-steps, and --eval-split or --eval-data`;

/**
 * BAD_CONFIG that names everything which does not fit, on `ranks` ranks. The same on every rank. `device` is the one that was
 * chosen, where it is known what `--device auto` takes.
 */
export function checkOptions(
  config: FinetuneConfig | PretrainConfig,
  ranks: number,
  device: string = config.device,
): void {
  refuse([
    ...spreadProblems(config, ranks, device),
    ...saveProblems(config),
    ...scaleProblems(config),
    ...shapeProblems(config),
  ]);
}

/** BAD_CONFIG when the options do not fit each other, the ranks, or the device that was chosen. */
export function checkSpread(config: SpreadConfig, ranks: number, device?: string): void {
  refuse(spreadProblems(config, ranks, device));
}

/** BAD_CONFIG for a folder to read that is not there, or one to write that must not be written. */
export function checkFolders(config: FinetuneConfig | PretrainConfig): void {
  refuseFile('--out', config.out);
  if (config.offloadFolder !== undefined) requireWritable('--offload-folder', config.offloadFolder);
  if ('model' in config) {
    requireFolder('--model', config.model);
    refuseOverwriting('--out', resultOf(config), { '--model': config.model });
  } else if (config.tokenizer !== 'byte') requireFolder('--tokenizer', config.tokenizer);
}

function spreadProblems(config: SpreadConfig, ranks: number, device?: string): string[] {
  const { zero, shardRanks, optimizer, reduceDtype, compress, offload = 'none' } = config;
  const problems = offload === 'none' ? [] : deviceProblems(config.device, device);
  const misfit = (expected: string, received: unknown) =>
    problems.push(named(`${expected}; received ${String(received)}`));
  if (compress !== 'none' && reduceDtype !== 'same')
    misfit('--compress packs float32: expected --reduce-dtype same', reduceDtype);
  if (zero === 0) {
    if (compress !== 'none') misfit('--compress works on shards: expected --zero 1, 2 or 3', '--zero 0');
    if (shardRanks !== undefined) misfit('--shard-ranks needs something to shard', '--zero 0; use --zero 1, 2 or 3');
    if (offload !== 'none') misfit('--offload works on shards: expected --zero 1, 2 or 3', '--zero 0');
    return problems;
  }
  if (offload === 'parameters' && zero !== 3) misfit('--offload parameters: expected --zero 3', `--zero ${zero}`);
  if (optimizer === 'adafactor') {
    misfit(
      '--optimizer adafactor needs whole matrices, and --zero shards them: expected adamw, sgd, lion or muon',
      optimizer,
    );
  }
  if (shardRanks !== undefined && ranks % shardRanks !== 0)
    misfit(`--shard-ranks: expected a divisor of ${ranks} ranks`, shardRanks);
  return problems;
}

/** What offload needs of the device. The names in brackets are those of a DeepSpeed config. */
function deviceProblems(asked: string | undefined, chosen: string | undefined): string[] {
  if (chosen !== 'cpu') return [];
  const received =
    asked === 'auto'
      ? '--device auto, which takes the CPU, as no CUDA device can be used here (`shardloop doctor` says why)'
      : '--device cpu';
  return [
    words`--offload (offload_optimizer, offload_param) moves memory from a CUDA device to the host: expected --device cuda; received ` +
      named(`${received}; on the CPU leave --offload out, or use --offload-folder alone`),
  ];
}

function saveProblems(config: TrainingConfig): string[] {
  const { saveBackground, saveThrottleMb, saveBest, evalSteps, evalSplit, evalData, resume } = config;
  const problems: string[] = [];
  if (saveThrottleMb !== undefined && !saveBackground)
    problems.push(words`--save-throttle-mb is for --save-background, which is not set; set both`);
  if (resume === '') problems.push(words`--resume: expected auto or a checkpoint's folder, received ''; name one`);
  if (saveBest && (evalSteps === 0 || (evalSplit === 0 && evalData === undefined))) problems.push(nothingScored());
  return problems;
}

function scaleProblems({ precision, lossScale, lossScaleInitial, minLossScale }: TrainingConfig): string[] {
  if (precision !== 'fp16' || lossScale !== 'dynamic' || lossScaleInitial >= minLossScale) return [];
  return [
    words`--loss-scale-initial: expected at least --min-loss-scale ${minLossScale}, received ${lossScaleInitial}`,
  ];
}

function shapeProblems(config: TrainingConfig): string[] {
  if (!('heads' in config) || config.width % config.heads === 0) return [];
  return [words`--heads: expected a divisor of --width ${config.width}, received ${config.heads}`];
}

function refuse(problems: readonly string[]): void {
  if (problems.length > 0) throw new ShardloopError('BAD_CONFIG', problems.join('\n'));
}
