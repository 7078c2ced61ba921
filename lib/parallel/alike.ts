// Whether all ranks are alike: have the same parameters before they communicate about them, and left a step that failed at
// the same place before they repeat it.
import { ShardloopError, tensor } from '../core/index.js';
import type { Group } from '../dist/index.js';
import type { BucketPlan } from './buckets.js';

/** Fails on every rank alike unless all of them have the same shapes in the same order. Collective. */
export function checkAlike(where: string, plans: readonly BucketPlan[], group: Group): void {
  let hash = 0;
  const described = JSON.stringify(
    plans.map(({ slots, trains }) => [trains, slots.map(({ parameter: p }) => [p.dtype, p.shape])]),
  );
  for (let i = 0; i < described.length; i++) hash = (Math.imul(hash, 31) + described.charCodeAt(i)) | 0;
  const device = plans[0]?.slots[0]?.parameter.device;
  const largest = tensor(Float64Array.of(hash, -hash), { device: device?.startsWith('cuda') ? device : 'cpu' });
  group.allReduce(largest, 'max').wait();
  const [most, least] = largest.dataSync() as Float64Array;
  largest.dispose();
  if (most === -least!) return;
  const trainable = plans.reduce((n, { slots, trains }) => n + (trains ? slots.length : 0), 0);
  throw new ShardloopError(
    'BAD_ARGUMENT',
    `[rank ${group.rank}/${group.size}] ${where} on group '${group.name}': expected the same trainable parameters on ` +
      `every rank, but the ranks differ; this rank has ${trainable}. ` +
      'Build the model from the same config, and freeze the same parameters, on all of them',
  );
}

/**
 * Leaves a step whose collectives had begun: `settle` waits for those on their way. Fails on every rank unless all of them
 * had launched as many: they meet in a barrier, which is no other operation of a step, so that a rank that goes on with
 * its step meets no gradients of the repeated one. Collective.
 */
export async function leaveStep(where: string, groups: readonly Group[], settle: () => Promise<void>): Promise<void> {
  try {
    await settle();
    for (const group of groups) await group.barrier().done();
  } catch (cause) {
    if (!(cause instanceof ShardloopError)) throw cause;
    const what = `${where}: begin() drops a step whose collectives had begun only where it failed on all ranks behind the same one`;
    throw new ShardloopError(cause.code, `${cause.message}. ${what}`, { cause });
  }
}
