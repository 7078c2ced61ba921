// What a batch is made of: sequences, the rows of the tensors. A sequence is one example, several packed examples, or a
// block of a long text (text-blocks.ts). Packing happens here, before anything is shared out to ranks.
import { ShardloopError } from '../core/errors.js';
import { countLabels, type Example } from './encode.js';

/** One row: `targets[i]` is what the model's output at i is scored against, the next token, or -100 for no loss. */
export interface Sequence {
  readonly ids: Int32Array; // (T)
  readonly targets: Int32Array; // (T)
  /** In packed sequences, which document a token belongs to, from 0; attention stays within a document. */
  readonly documentIds?: Int32Array; // (T)
  /** In packed sequences, the place of a token in its document, from 0. */
  readonly positionIds?: Int32Array; // (T)
}

/** A set of sequences that a BatchSource draws from. The same on every rank. */
export interface SequenceSet {
  readonly count: number;
  /** Whether sequences carry documentIds and positionIds. */
  readonly packed: boolean;
  /** A number that changes when the sequences do; a resumed run must find the one that it saved. */
  readonly fingerprint: number;
  /** The tokens with loss in sequence `index` of an epoch. */
  labelled(index: number, epoch: number): number;
  /** Sequence `index` of an epoch. */
  get(index: number, epoch: number): Sequence;
}

/** Every example a sequence of its own. Throws BAD_ARGUMENT without examples. */
export function exampleSequences(examples: readonly Example[]): SequenceSet {
  requireSome(examples.length);
  const labelled = Uint32Array.from(examples, (example) => countLabels(example.labels));
  return {
    count: examples.length,
    packed: false,
    fingerprint: fingerprintOf(examples.map((example) => [example])),
    labelled: (index) => labelled[index]!,
    get: (index) => ({ ids: examples[index]!.ids, targets: shift(examples[index]!.labels) }),
  };
}

/**
 * Packs whole examples into sequences of at most `seqLen` tokens (best fit, longest first), the same on every rank and in
 * every epoch, so that the number of steps is known. Throws BAD_ARGUMENT when an example is longer than `seqLen`.
 */
export function packedSequences(examples: readonly Example[], seqLen: number): SequenceSet {
  requireSome(examples.length);
  const groups = pack(
    examples.map((example) => example.ids.length),
    seqLen,
  ).map((group) => group.map((index) => examples[index]!));
  const labelled = Uint32Array.from(groups, (group) => group.reduce((sum, one) => sum + countLabels(one.labels), 0));
  return {
    count: groups.length,
    packed: true,
    fingerprint: fingerprintOf(groups),
    labelled: (index) => labelled[index]!,
    get: (index) => join(groups[index]!),
  };
}

/** Groups of indexes whose lengths add up to at most `capacity`: best fit, longest first, then in order of first index. */
export function pack(lengths: readonly number[], capacity: number): number[][] {
  const order = lengths.map((_, i) => i).sort((a, b) => lengths[b]! - lengths[a]! || a - b);
  const bySpace: number[][][] = Array.from({ length: capacity + 1 }, () => []); // open groups by the space left in them
  const groups: number[][] = [];
  for (const index of order) {
    const length = lengths[index]!;
    if (length > capacity) {
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `expected examples of at most ${capacity} tokens to pack, got ${length}`,
      );
    }
    let space = length;
    while (space <= capacity && bySpace[space]!.length === 0) space += 1;
    let group: number[];
    if (space <= capacity) group = bySpace[space]!.pop()!;
    else {
      space = capacity;
      group = [];
      groups.push(group);
    }
    group.push(index);
    bySpace[space - length]!.push(group);
  }
  for (const group of groups) group.sort((a, b) => a - b);
  return groups.sort((a, b) => a[0]! - b[0]!);
}

function join(group: readonly Example[]): Sequence {
  const length = group.reduce((sum, example) => sum + example.ids.length, 0);
  const ids = new Int32Array(length);
  const labels = new Int32Array(length);
  const documentIds = new Int32Array(length);
  const positionIds = new Int32Array(length);
  let at = 0;
  for (const [document, example] of group.entries()) {
    ids.set(example.ids, at);
    labels.set(example.labels, at); // its first label is -100, so that no document predicts the next one's beginning
    documentIds.fill(document, at, at + example.ids.length);
    for (let i = 0; i < example.ids.length; i++) positionIds[at + i] = i;
    at += example.ids.length;
  }
  return { ids, targets: shift(labels), documentIds, positionIds };
}

/** Labels moved one place to the left, to where the model predicts them. */
function shift(labels: Int32Array): Int32Array {
  const targets = new Int32Array(labels.length);
  targets.set(labels.subarray(1));
  if (targets.length > 0) targets[targets.length - 1] = -100;
  return targets;
}

function requireSome(count: number): void {
  if (count === 0) throw new ShardloopError('BAD_ARGUMENT', 'expected at least one example to train on, got none');
}

/** FNV-1a over ids, labels and the borders of examples and groups. */
function fingerprintOf(groups: readonly (readonly Example[])[]): number {
  let hash = 0x811c9dc5;
  const take = (value: number) => {
    hash = Math.imul(hash ^ value, 0x01000193) >>> 0;
  };
  for (const group of groups) {
    take(group.length);
    for (const { ids, labels } of group) {
      take(ids.length);
      for (let i = 0; i < ids.length; i++) take(labels[i] === -100 ? ids[i]! : ~ids[i]!);
    }
  }
  return hash;
}
