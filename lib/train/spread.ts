// From the options of a run to the way in which its model is spread over the ranks. The ways are lib/parallel's.
import type { Tensor } from '../core/index.js';
import { type Group, mesh } from '../dist/index.js';
import type { Segment } from '../nn/index.js';
import { type Compression, replicate, type Strategy, zero } from '../parallel/index.js';
import { checkSpread, type SpreadConfig } from './option-check.js';

/** Whether the model is made on the meta device and filled shard by shard, so that no rank ever holds it whole. */
export function fillsShards(
  config: Pick<SpreadConfig, 'zero' | 'shardRanks' | 'offload'>,
  { size }: Pick<Group, 'size'>,
): boolean {
  // One rank alone is not sharded, unless its parameters are to be elsewhere: they may not fit on the device at once.
  return config.zero === 3 && ((config.shardRanks ?? size) > 1 || config.offload === 'parameters');
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
  checkSpread(config, group.size, made.device);
  const { shardRanks } = config;
  const offload = config.offload === 'none' ? undefined : config.offload;
  const stage = config.zero as 0 | 1 | 2 | 3;
  const reduceDtype = { same: undefined, fp32: 'float32', bf16: 'bfloat16' } as const;
  const options = {
    reduceDtype: reduceDtype[config.reduceDtype],
    bucketBytes: config.bucketMb === undefined ? undefined : config.bucketMb * 2 ** 20,
  };
  const compression = compressionOf(config);
  if (stage === 0) {
    const strategy = replicate(segments, group, options);
    return { strategy, groups: [group], close: async () => strategy.dispose() };
  }
  if (shardRanks === undefined || shardRanks === group.size) {
    const strategy = zero(segments, group, { ...options, ...made, compression, stage, offload });
    return { strategy, groups: [group], close: async () => strategy.dispose() };
  }
  const ranks = await mesh(group, { replicate: group.size / shardRanks, shard: shardRanks });
  const [shards, replicas] = [ranks.group('shard'), ranks.group('replicate')];
  try {
    const strategy = zero(segments, shards, { ...options, ...made, compression, stage, offload, replicas });
    return {
      strategy,
      groups: [shards, replicas],
      async close() {
        strategy.dispose();
        await ranks.destroy();
      },
    };
  } catch (error) {
    await ranks.destroy();
    throw error;
  }
}

function compressionOf({ compress, compressRatio: ratio }: SpreadConfig): Compression | undefined {
  if (compress === 'none') return undefined;
  return compress === 'int8' ? { kind: 'int8' } : { kind: 'topk', ratio };
}
