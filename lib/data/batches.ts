// The batches of a run: which sequences belong to which step, and which of them this rank computes. A step's global batch
// depends on the seed, the epoch and the global batch size alone, never on how it is split over ranks and micro-batches.
// Every rank knows every step's number of labelled tokens, so that the loss is weighed by tokens without communication.
import { describe, ShardloopError } from '../core/errors.js';
import { requireOptions } from '../core/options.js';
import { DataRandom } from './random.js';
import type { Sequence, SequenceSet } from './sequences.js';

/** How the data of a run is shared out. */
export interface BatchOptions {
  /** Sequences a rank computes at once. */
  microBatch: number;
  /** Micro-batches a rank computes before a step. Default 1. */
  gradAccum?: number;
  /** Default 0 of 1. */
  rank?: number;
  worldSize?: number;
  /** Decides the order of every epoch. Default 0. */
  seed?: number;
  /** Whether epochs are shuffled. Default true. */
  shuffle?: boolean;
  /** How often to go through the data; may be a fraction. Default without end. */
  epochs?: number;
  /** The token that fills short rows; it never counts. Default 0. */
  padId?: number;
}

/** Rows of tensors for one forward pass. All arrays are row-major (B, T); short rows are filled at the end. */
export interface MicroBatch {
  readonly shape: readonly [batch: number, length: number];
  readonly ids: BigInt64Array; // (B, T)
  /** What the output at each place is scored against: the next token, already shifted; -100 for no loss. */
  readonly targets: BigInt64Array; // (B, T)
  /** 1 for a token, 0 for filling. */
  readonly mask: Uint8Array; // (B, T)
  /** Only when packed: the document of each token, -1 for filling; attention stays within a document. */
  readonly documentIds: Int32Array | null; // (B, T)
  /** Only when packed: the place of each token in its document. */
  readonly positionIds: BigInt64Array | null; // (B, T)
  /** Targets other than -100. */
  readonly labelledTokens: number;
  /** Sequences; 0 in a batch of filling that only keeps this rank in step with the others. */
  readonly sequences: number;
}

/** One optimizer step as this rank sees it. */
export interface Step {
  /** From 1, over all epochs. */
  readonly step: number;
  /** From 0. */
  readonly epoch: number;
  /** This rank's micro-batches; every rank has the same number of them, if need be filled with padding. */
  readonly microBatches: readonly MicroBatch[];
  /** Labelled tokens of the global batch: divide the sum of the losses by it. */
  readonly labelledTokens: number;
  /** Sequences of the global batch. */
  readonly sequences: number;
  /** Which sequences of the set form the global batch, in order. */
  readonly indexes: readonly number[];
  /** Where the next step begins; save it in the checkpoint of this step. */
  readonly position: DataPosition;
}

/** A place in the data, independent of the number of ranks; plain JSON. */
export interface DataPosition {
  readonly epoch: number;
  /** Sequences of the epoch that were used. */
  readonly offset: number;
  /** Steps that were taken. */
  readonly steps: number;
  readonly seed: number;
  readonly fingerprint: number;
}

/** An endless or bounded row of steps; iterate over it, or call next(). */
export class BatchSource implements Iterable<Step> {
  /** Sequences of a full step: microBatch * gradAccum * worldSize. */
  readonly globalBatch: number;
  /** Steps of one epoch; the last may be smaller. */
  readonly stepsPerEpoch: number;
  /** Steps of all epochs; Infinity without a number of epochs. */
  readonly totalSteps: number;
  readonly #set: SequenceSet;
  readonly #options: Required<BatchOptions>;
  #epoch = 0;
  #offset = 0;
  #steps = 0;
  #order: { epoch: number; indexes: Uint32Array } | null = null;

  /** Throws BAD_ARGUMENT for options that make no sense. */
  constructor(set: SequenceSet, options: BatchOptions) {
    this.#set = set;
    this.#options = withDefaults(options);
    const { microBatch, gradAccum, worldSize, epochs } = this.#options;
    this.globalBatch = microBatch * gradAccum * worldSize;
    this.stepsPerEpoch = Math.ceil(set.count / this.globalBatch);
    this.totalSteps = Math.ceil(this.stepsPerEpoch * epochs - 1e-9);
  }

  /** The next step, or null at the end of the last epoch. */
  next(): Step | null {
    if (this.#offset >= this.#set.count) {
      this.#epoch += 1;
      this.#offset = 0;
    }
    if (this.#finished()) return null;
    const epoch = this.#epoch;
    const end = Math.min(this.#offset + this.globalBatch, this.#set.count);
    const indexes = Array.from(this.#orderOf(epoch).subarray(this.#offset, end));
    this.#offset = end;
    this.#steps += 1;
    let labelledTokens = 0;
    for (const index of indexes) labelledTokens += this.#set.labelled(index, epoch);
    return {
      step: this.#steps,
      epoch,
      microBatches: this.#microBatches(indexes, epoch),
      labelledTokens,
      sequences: indexes.length,
      indexes,
      position: this.position(),
    };
  }

  /** The steps from the present position to the last. */
  *[Symbol.iterator](): Iterator<Step> {
    for (let step = this.next(); step !== null; step = this.next()) yield step;
  }

  /** Where the next step begins. */
  position(): DataPosition {
    const { fingerprint } = this.#set;
    return { epoch: this.#epoch, offset: this.#offset, steps: this.#steps, seed: this.#options.seed, fingerprint };
  }

  /**
   * Goes on from a saved position, also with another number of ranks. Throws BAD_CHECKPOINT when the position is of other
   * data or another seed.
   */
  seek(position: DataPosition): void {
    const { epoch, offset, steps, seed, fingerprint } = position;
    if (seed !== this.#options.seed || fingerprint !== this.#set.fingerprint) {
      throw new ShardloopError(
        'BAD_CHECKPOINT',
        seed !== this.#options.seed
          ? `the checkpoint was made with seed ${seed}, this run has ${this.#options.seed}; use the same seed to resume`
          : 'the checkpoint was made with other training data (or other tokens, template, packing or sequence length)',
      );
    }
    const whole = [epoch, offset, steps].every((value) => Number.isSafeInteger(value) && value >= 0);
    if (!whole || offset > this.#set.count) {
      const text = JSON.stringify({ epoch, offset, steps });
      throw new ShardloopError(
        'BAD_CHECKPOINT',
        `expected a data position within ${this.#set.count} sequences, got ${text}`,
      );
    }
    this.#epoch = epoch;
    this.#offset = offset;
    this.#steps = steps;
  }

  #finished(): boolean {
    const { epochs } = this.#options;
    if (this.#epoch + 1 <= epochs) return false;
    const steps = Math.ceil(this.stepsPerEpoch * (epochs - this.#epoch) - 1e-9);
    return this.#offset >= Math.max(0, steps) * this.globalBatch;
  }

  #orderOf(epoch: number): Uint32Array {
    if (this.#order?.epoch !== epoch) {
      const { seed, shuffle } = this.#options;
      const indexes = shuffle
        ? new DataRandom(seed, epoch).permutation(this.#set.count)
        : Uint32Array.from({ length: this.#set.count }, (_, i) => i);
      this.#order = { epoch, indexes };
    }
    return this.#order.indexes;
  }

  /** Every worldSize-th sequence from this rank's own on, so that shares differ by one at most. */
  #microBatches(indexes: readonly number[], epoch: number): MicroBatch[] {
    const { rank, worldSize, microBatch, padId } = this.#options;
    const own = indexes.filter((_, i) => i % worldSize === rank);
    const rounds = Math.ceil(Math.ceil(indexes.length / worldSize) / microBatch);
    return Array.from({ length: rounds }, (_, round) => {
      const share = own.slice(round * microBatch, (round + 1) * microBatch);
      return collate(
        share.map((index) => this.#set.get(index, epoch)),
        padId,
        this.#set.packed,
      );
    });
  }
}

/** Rows of one length: the longest; without sequences, one row of one filling token. */
export function collate(sequences: readonly Sequence[], padId: number, packed: boolean): MicroBatch {
  const rows = Math.max(1, sequences.length);
  const length = sequences.reduce((longest, { ids }) => Math.max(longest, ids.length), 1);
  const ids = new BigInt64Array(rows * length).fill(BigInt(padId));
  const targets = new BigInt64Array(rows * length).fill(-100n);
  const mask = new Uint8Array(rows * length);
  const documentIds = packed ? new Int32Array(rows * length).fill(-1) : null;
  const positionIds = packed ? new BigInt64Array(rows * length) : null;
  let labelledTokens = 0;
  for (const [row, sequence] of sequences.entries()) {
    const start = row * length;
    for (let i = 0; i < sequence.ids.length; i++) {
      ids[start + i] = BigInt(sequence.ids[i]!);
      if (sequence.targets[i] === -100) continue;
      targets[start + i] = BigInt(sequence.targets[i]!);
      labelledTokens += 1;
    }
    mask.fill(1, start, start + sequence.ids.length);
    if (sequence.documentIds) documentIds?.set(sequence.documentIds, start);
    if (positionIds) for (const [i, place] of sequence.positionIds!.entries()) positionIds[start + i] = BigInt(place);
  }
  return {
    shape: [rows, length],
    ids,
    targets,
    mask,
    documentIds,
    positionIds,
    labelledTokens,
    sequences: sequences.length,
  };
}

function withDefaults(options: BatchOptions): Required<BatchOptions> {
  requireOptions('BatchSource', options);
  const { microBatch, gradAccum = 1, rank = 0, worldSize = 1, seed = 0, shuffle = true, padId = 0 } = options;
  const epochs = options.epochs ?? Number.POSITIVE_INFINITY;
  const check = (name: string, value: number, least: number) => {
    if (Number.isSafeInteger(value) && value >= least) return;
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `expected ${name} to be an integer of at least ${least}, got ${describe(value)}`,
    );
  };
  check('microBatch', microBatch, 1);
  check('gradAccum', gradAccum, 1);
  check('worldSize', worldSize, 1);
  check('rank', rank, 0);
  check('seed', seed, 0);
  check('padId', padId, 0);
  if (rank >= worldSize)
    throw new ShardloopError('BAD_ARGUMENT', `expected rank below worldSize ${worldSize}, got ${rank}`);
  if (!(epochs > 0))
    throw new ShardloopError('BAD_ARGUMENT', `expected epochs to be positive, got ${describe(epochs)}`);
  return { microBatch, gradAccum, rank, worldSize, seed, shuffle, epochs, padId };
}
