// ZeRO (Rajbhandari et al., arXiv 1910.02054): every rank sees other records, and the states of training are sharded over
// the ranks. A rank updates its own part of each parameter, and so holds masters and moments for that part alone.
//   stage 1   gradients add up whole on each rank; behind the last micro-batch each rank receives the sums of its part
//   stage 2   each micro-batch's gradients go to the ranks that own them, and are dropped
//   stage 3   so do the parameters: a segment's are gathered before it runs and released behind it
// Under stages 1 and 2 the parameters that the other ranks updated are fetched when a segment first needs them, so that
// this overlaps with the next step's forward, as the gathers of stage 3 do. With `replicas` (hybrid sharding) the shards
// live once in each node, and their gradients are summed over the nodes.
import { type DType, describe, ShardloopError, type Tensor } from '../core/index.js';
import { requireOptions } from '../core/options.js';
import { markSharded, unmarkSharded } from '../core/sharded.js';
import type { Group } from '../dist/index.js';
import { isOnKernelDevice } from '../nn/fused.js';
import { replaceTensors, type Segment } from '../nn/index.js';
import { checkAlike, leaveStep } from './alike.js';
import { planBuckets } from './buckets.js';
import type { Compression } from './compress.js';
import { GradientShards } from './gradient-shards.js';
import type { Offload } from './offload.js';
import { replicate } from './replicate.js';
import { ShardedUnit } from './sharded-unit.js';
import { alone, dropGradients, type Part, type Pass, REPEAT, type Strategy } from './strategy.js';
import { tiedTables } from './tied-table.js';
import { inTurn } from './turns.js';

/** Options of {@link zero}. */
export interface ZeroOptions {
  /** What is sharded: 1 the optimizer's states, 2 gradients too, 3 parameters too. */
  stage: 1 | 2 | 3;
  /** Hybrid sharding: the ranks that hold the same shards as this one, such as the axis 'replicate' of a mesh. */
  replicas?: Group;
  /** The most bytes of gradients that travel together. Default: 16 MiB, and 25 with NCCL. */
  bucketBytes?: number;
  /** In which dtype gradients travel and, for half-precision parameters, are kept: their own (default) or 'float32'; 'bfloat16' halves the traffic of float32 ones. */
  reduceDtype?: 'float32' | 'bfloat16';
  /** Sends gradients packed: 'int8', or the share `ratio` of them that is largest ('topk'). Default: as they are. */
  compression?: Compression;
  /** Default 'sum': each rank's loss is its share of the global batch's. 'avg' where each rank's loss is a mean of its own. */
  op?: 'sum' | 'avg';
  /** Whether rank 0's parameters are copied to the others first. Default true. */
  broadcast?: boolean;
  /**
   * Writes the values of a parameter on the meta device into `into` (its shape), on `device`: so a model is made that no
   * rank ever holds whole under stage 3, where it is called in the order of the model. The modules get new Tensor objects.
   */
  fill?: (parameter: Tensor, into: Tensor) => void;
  /** Where parameters on the meta device are filled. Default 'cpu'. */
  device?: string;
  /**
   * Keeps in host memory what the optimizer updates ('optimizer'), or with stage 3 this rank's shard as well ('parameters').
   * The optimizer then runs on the CPU; it saves memory of a CUDA device, also with a single rank. Default: nothing.
   */
  offload?: Offload;
  /** How many segments ahead parameters are fetched. Default 1. */
  prefetch?: number;
}

const MIB = 1024 * 1024;

/**
 * The strategy that shards the states of training over `group`. The parameters stay the same Tensor objects; after
 * {@link Strategy.part} optimizers work on parts of them. Under stage 3 a parameter can be read only while its segment
 * runs, and in {@link Strategy.whole}; frozen parameters are sharded too. With a group of one it does nothing but offload.
 * Throws BAD_ARGUMENT for options that make no sense, and when the ranks' parameters do not match. Collective.
 */
export function zero(segments: readonly Segment[], group: Group, options: ZeroOptions): Strategy {
  requireOptions('zero', options);
  const { replicas, op = 'sum', broadcast = true, prefetch = 1 } = options;
  const { bucketBytes = (group.backend === 'nccl' ? 25 : 16) * MIB } = options;
  const stage = checkValues(group, options, { bucketBytes, prefetch });
  const many = replicas !== undefined && replicas.size > 1 ? replicas : null;
  if (group.size === 1 && options.offload === undefined)
    return many === null ? alone : replicate(segments, many, { op, broadcast, bucketBytes });

  const releases = stage === 3;
  // Where gradients are packed or rounded on their way, their sum is; over replicas the order of operations allows no others.
  const asIs = many === null && options.compression === undefined && group.size > 1;
  const travelsAsIs = (table: Tensor) =>
    asIs &&
    (options.reduceDtype ?? table.dtype) === table.dtype &&
    isOnKernelDevice({
      device: table.device === 'meta' && options.fill !== undefined ? (options.device ?? 'cpu') : table.device,
    });
  const tables = tiedTables(segments, travelsAsIs);
  const plans = releases
    ? planBuckets(segments, { bytes: Number.POSITIVE_INFINITY, bySegment: true, frozen: true, tables })
    : planBuckets(segments, { bytes: bucketBytes, tables });
  const groups = many === null ? [group] : [many, group];
  for (const ranks of groups) checkAlike('zero', plans, ranks);
  const sources = broadcast ? groups : [];
  const { fill, device, offload } = options;
  const inOrder = [...plans].sort((a, b) => a.readyAt - b.readyAt); // random numbers are drawn as for a whole model
  const units = inOrder.map((plan) => new ShardedUnit(plan, group, { releases, sources, fill, device, offload }));
  if (fill !== undefined) {
    const filled = units.flatMap(({ plan }, i) =>
      plan.slots.map(({ parameter }, j) => [inOrder[i]!.slots[j]!.parameter, parameter] as const),
    );
    replaceTensors([...new Set(segments.flatMap(({ modules }) => modules))], new Map(filled));
  }
  const dtype: DType | undefined = options.reduceDtype;
  const gradients = new GradientShards(units, group, many, {
    op,
    bucketBytes,
    dtype,
    compression: options.compression,
    // Under stage 1 they would come on top of the whole gradients of all micro-batches but the last.
    keepsSums: stage > 1 || offload !== undefined,
  });
  const parts = new Map<Tensor, Part>();
  for (const { plan, parts: own } of units) {
    for (const [i, { parameter }] of plan.slots.entries()) parts.set(parameter, own[i]!);
  }
  markSharded(parts.keys());
  const unitsOf = segments.map((_, k) => units.filter(({ plan }) => plan.segments.includes(k)));
  const head = segments.length - 1;

  let reduced = 0; // the segment whose backward ran last; 0 where none is missing
  let sends = false; // collectives of this step have begun that the step would begin again
  const start = (k: number): void => {
    for (const unit of unitsOf[k] ?? []) unit.start(k);
  };
  const strategy: Strategy = {
    writesParts: many === null || many.rank === 0,
    async begin() {
      for (const [k, held] of unitsOf.entries()) for (const unit of held) unit.leave(k); // of a segment that failed
      if (sends) await leaveStep('zero', groups, () => gradients.abandon());
      sends = false;
      reduced = 0;
      dropGradients(segments);
      for (const { tensor } of parts.values()) tensor.grad = null;
    },
    gather(k: number, pass: Pass) {
      if (pass === 'forward') {
        if (reduced > 0) {
          throw new ShardloopError(
            'BAD_ARGUMENT',
            `zero: expected the backward to go on to segment 0, received a forward behind that of segment ${reduced}; ${REPEAT}`,
          );
        }
        gradients.begin(k);
        sends ||= releases; // what the other stages gather stays whole for the rest of the step
      }
      start(k);
      for (let ahead = 1; ahead <= prefetch; ahead++) start(pass === 'backward' ? k - ahead : k + ahead);
      for (const unit of unitsOf[k]!) unit.complete();
    },
    release(k: number, pass: Pass) {
      if (pass === 'forward' && k === head) return; // its backward comes at once
      for (const unit of unitsOf[k]!) unit.leave(k);
    },
    reduce(k: number, last: boolean) {
      reduced = k;
      if (stage === 1 && !last) return;
      sends = true;
      gradients.reduce(k);
    },
    async finish() {
      reduced = 0;
      await gradients.finish();
      sends = false;
    },
    part(parameter: Tensor): Part {
      return parts.get(parameter) ?? { tensor: parameter, start: 0 };
    },
    assemble(parameters, values, use) {
      const indexes = new Map(parameters.map((parameter, i) => [parameter, i]));
      for (const unit of units) unit.assemble((parameter) => indexes.get(parameter), values, use);
    },
    sumOverParts: (value: number) => group.sum(value),
    updated() {
      for (const unit of units) unit.outdate();
    },
    async whole<T>(fn: () => T | Promise<T>, parameters?: Iterable<Tensor>): Promise<T> {
      const wanted = parameters && new Set(parameters);
      const held = units.filter(({ plan }) => !wanted || plan.slots.some(({ parameter }) => wanted.has(parameter)));
      for (const unit of held) unit.start(WHOLE);
      for (const unit of held) unit.complete();
      try {
        return await fn();
      } finally {
        for (const unit of held) unit.leave(WHOLE);
      }
    },
    dispose() {
      unmarkSharded(parts.keys());
      gradients.dispose();
      for (const unit of units) unit.dispose();
    },
  };
  const model = releases ? 'the model anew, whose parameters are in the shards, and ' : '';
  return inTurn(strategy, {
    name: 'zero',
    anew: `${model}another strategy with zero(segments, group, options)`,
    groups,
    segments: segments.length,
  });
}

/** Stands for a segment that needs every unit. */
const WHOLE = -1;

function checkValues(
  group: Group,
  { stage, op = 'sum', reduceDtype, replicas, compression, offload }: ZeroOptions,
  { bucketBytes, prefetch }: { bucketBytes: number; prefetch: number },
): 1 | 2 | 3 {
  const refuse = (what: string, received: string): ShardloopError =>
    new ShardloopError('BAD_ARGUMENT', `zero: expected ${what}, received ${received}`);
  if (stage !== 1 && stage !== 2 && stage !== 3) throw refuse('stage to be 1, 2 or 3', describe(stage));
  if (op !== 'sum' && op !== 'avg') throw refuse("op to be 'sum' or 'avg'", describe(op));
  if (reduceDtype !== undefined && reduceDtype !== 'float32' && reduceDtype !== 'bfloat16') {
    throw refuse("reduceDtype to be 'float32' or 'bfloat16'", describe(reduceDtype));
  }
  if (compression !== undefined && compression.kind !== 'int8') {
    if (compression.kind !== 'topk')
      throw refuse("compression.kind to be 'int8' or 'topk'", describe((compression as { kind: unknown }).kind));
    const { ratio } = compression;
    if (!(ratio > 0 && ratio <= 1)) throw refuse('compression.ratio to be above 0 and at most 1', describe(ratio));
  }
  if (compression !== undefined && reduceDtype !== undefined) throw refuse('reduceDtype or compression', 'both');
  if (!(bucketBytes > 0)) throw refuse('bucketBytes to be positive', describe(bucketBytes));
  if (!Number.isSafeInteger(prefetch) || prefetch < 0)
    throw refuse('prefetch to be a whole number from 0', describe(prefetch));
  if (offload !== undefined && offload !== 'optimizer' && offload !== 'parameters')
    throw refuse("offload to be 'optimizer' or 'parameters'", describe(offload));
  if (offload === 'parameters' && stage !== 3) throw refuse("stage 3 beside offload 'parameters'", `stage ${stage}`);
  if (replicas === group) throw refuse('replicas to be another group than that of the shards', 'the same');
  return stage;
}
