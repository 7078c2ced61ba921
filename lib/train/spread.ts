// From the options of a run to the way in which its model is spread over the ranks. The ways are lib/parallel's.
import { ShardloopError, type Tensor } from '../core/index.js';
import { type Group, mesh } from '../dist/index.js';
import type { Segment } from '../nn/index.js';
import { type Compression, replicate, type Strategy, zero } from '../parallel/index.js';
import type { TrainingConfig } from './config.js';

/** The options that decide it. */
export type SpreadConfig = Pick<
  TrainingConfig,
  'zero' | 'shardRanks' | 'optimizer' | 'reduceDtype' | 'compress' | 'compressRatio' | 'bucketMb'
> &
  Partial<Pick<TrainingConfig, 'offload'>>;

/** Whether the model is made on the meta device and filled shard by shard, so that no rank ever holds it whole. */
export function fillsShards(config: Pick<SpreadConfig, 'zero' | 'shardRanks'>, { size }: Group): boolean {
  return config.zero === 3 && (config.shardRanks ?? size) > 1;
}

/** A strategy, and what to call when nothing uses it any more. */
export interface Spread {
  readonly strategy: Strategy;
  /** The groups over which it communicates. */
  readonly groups: readonly Group[];
  close(): Promise<void>;
}

/** Replicates the model or shards it; `made` fills parameters on the meta device. Collective. Throws BAD_CONFIG when the options do not fit each other or the ranks. */
export async function spread(
  { config, group }: { config: SpreadConfig; group: Group },
  segments: readonly Segment[],
  made: { fill?: (parameter: Tensor, into: Tensor) => void; device?: string } = {},
): Promise<Spread> {
  const { shardRanks, optimizer } = config;
  const offload = config.offload === 'none' ? undefined : config.offload;
  const stage = config.zero as 0 | 1 | 2 | 3;
  const reduceDtype = { same: undefined, fp32: 'float32', bf16: 'bfloat16' } as const;
  const options = {
    reduceDtype: reduceDtype[config.reduceDtype],
    bucketBytes: config.bucketMb === undefined ? undefined : config.bucketMb * 2 ** 20,
  };
  const compression = compressionOf(config);
  if (compression !== undefined && config.reduceDtype !== 'same')
    throw misfit('--compress packs float32: expected --reduce-dtype same', config.reduceDtype);
  if (stage === 0) {
    if (compression !== undefined) throw misfit('--compress works on shards: expected --zero 1, 2 or 3', '--zero 0');
    if (shardRanks !== undefined)
      throw misfit('--shard-ranks needs something to shard', '--zero 0; use --zero 1, 2 or 3');
    if (offload !== undefined) throw misfit('--offload works on shards: expected --zero 1, 2 or 3', '--zero 0');
    const strategy = replicate(segments, group, options);
    return { strategy, groups: [group], close: async () => strategy.dispose() };
  }
  if (offload === 'parameters' && stage !== 3)
    throw misfit('--offload parameters: expected --zero 3', `--zero ${stage}`);
  if (offload !== undefined && made.device === 'cpu')
    throw misfit(
      '--offload moves memory from a CUDA device to the host: expected one (on the CPU, --offload-folder keeps states on a disk)',
      'cpu',
    );
  if (optimizer === 'adafactor') {
    throw misfit(
      '--optimizer adafactor needs whole matrices, and --zero shards them: expected adamw, sgd, lion or muon',
      optimizer,
    );
  }
  if (shardRanks === undefined || shardRanks === group.size) {
    const strategy = zero(segments, group, { ...options, ...made, compression, stage, offload });
    return { strategy, groups: [group], close: async () => strategy.dispose() };
  }
  if (group.size % shardRanks !== 0)
    throw misfit(`--shard-ranks: expected a divisor of ${group.size} ranks`, shardRanks);
  const ranks = await mesh(group, { replicate: group.size / shardRanks, shard: shardRanks });
  const [shards, replicas] = [ranks.group('shard'), ranks.group('replicate')];
  const strategy = zero(segments, shards, { ...options, ...made, compression, stage, offload, replicas });
  return {
    strategy,
    groups: [shards, replicas],
    async close() {
      strategy.dispose();
      await ranks.destroy();
    },
  };
}

function compressionOf({ compress, compressRatio: ratio }: SpreadConfig): Compression | undefined {
  if (compress === 'none') return undefined;
  return compress === 'int8' ? { kind: 'int8' } : { kind: 'topk', ratio };
}

function misfit(expected: string, received: unknown): ShardloopError {
  return new ShardloopError('BAD_CONFIG', `${expected}; received ${String(received)}`);
}
