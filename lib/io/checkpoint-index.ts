// What a checkpoint says of its logical tensors: dtype, shape, and which elements of each lie in which file. The parts
// that several writers wrote are joined to one index here, and checked to be all there. Pure functions over JSON.
//
// A part holds the elements from `start` up to `end` of its tensor, in row-major order, so that any cut over any number
// of ranks can be read by any other.
import { isDType, ShardloopError } from '../core/index.js';
import type { SafetensorsHeader, TensorSpec } from './safetensors-header.js';

/** The elements [start, end) of a tensor lie in `file` under `key`. */
export type Range = readonly [start: number, end: number, file: string, key: string];

/** A tensor that may lie in several files. */
export interface LogicalTensor extends TensorSpec {
  /** Ascending, without holes or overlaps. */
  readonly parts: readonly Range[];
}

/** Logical tensors by group and name. */
export type CheckpointIndex = ReadonlyMap<string, ReadonlyMap<string, LogicalTensor>>;

/** What one writer wrote of a tensor. Plain JSON. */
export interface WrittenRange extends TensorSpec {
  readonly group: string;
  readonly name: string;
  readonly range: Range;
}

export const numelOf = (shape: readonly number[]) => shape.reduce((product, size) => product * size, 1);

/**
 * Joins what all writers wrote; `groups` may have no tensors. Throws BAD_CHECKPOINT, naming the tensor, when parts of one disagree about its dtype or
 * shape, overlap, or leave elements out.
 */
export function joinRanges(written: Iterable<WrittenRange>, groups: readonly string[], where: string): CheckpointIndex {
  const index = new Map<string, Map<string, LogicalTensor & { parts: Range[] }>>();
  for (const group of groups) index.set(group, new Map());
  for (const { group, name, dtype, shape, range } of written) {
    const tensors = index.get(group) ?? new Map();
    index.set(group, tensors);
    const known = tensors.get(name);
    if (known === undefined) {
      tensors.set(name, { dtype, shape, parts: [range] });
      continue;
    }
    if (known.dtype !== dtype || known.shape.join() !== shape.join()) {
      const [one, other] = [`${known.dtype} [${known.shape.join(', ')}]`, `${dtype} [${shape.join(', ')}]`];
      throw unsound(where, group, name, `${known.parts[0]![2]} holds part of ${one}, ${range[2]} part of ${other}`);
    }
    known.parts.push(range);
  }
  for (const [group, tensors] of index) {
    for (const [name, tensor] of tensors) {
      tensor.parts.sort((a, b) => a[0] - b[0] || a[1] - b[1]);
      checkRanges(where, group, name, tensor);
    }
  }
  return index;
}

function checkRanges(where: string, group: string, name: string, { shape, parts }: LogicalTensor): void {
  let at = 0;
  for (const [start, end, file] of parts) {
    if (start < at) throw unsound(where, group, name, `elements from ${start} on are in several files, ${file} is one`);
    if (start > at) throw unsound(where, group, name, `elements ${at} to ${start} are in no file`);
    at = end;
  }
  const numel = numelOf(shape);
  if (at !== numel) throw unsound(where, group, name, `expected ${numel} elements, the files hold ${at}`);
}

function unsound(where: string, group: string, name: string, what: string): ShardloopError {
  return new ShardloopError('BAD_CHECKPOINT', `${where}: ${group} ${name}: ${what}`);
}

/** The text of index.json. */
export function encodeIndex(index: CheckpointIndex): string {
  // As lists, not as keys of an object: names such as "10" would be reordered and "__proto__" lost.
  const groups = [...index].map(([group, tensors]) => ({
    group,
    tensors: [...tensors].map(([name, { dtype, shape, parts }]) => ({ name, dtype, shape, parts })),
  }));
  return `${JSON.stringify({ groups })}\n`;
}

/** The index of a text of index.json. Throws BAD_CHECKPOINT for one that is not sound. */
export function decodeIndex(text: string, where: string): CheckpointIndex {
  try {
    const { groups } = JSON.parse(text) as {
      groups: { group: string; tensors: (LogicalTensor & { name: string })[] }[];
    };
    const written = groups.flatMap(({ group, tensors }) =>
      tensors.flatMap(({ name, dtype, shape, parts }) => {
        if (!isDType(dtype)) throw new Error(`${name} has the unknown dtype ${dtype}`);
        return parts.map((range) => ({ group, name, dtype, shape, range }));
      }),
    );
    return joinRanges(
      written,
      groups.map(({ group }) => group),
      where,
    );
  } catch (cause) {
    if (cause instanceof ShardloopError) throw cause;
    throw new ShardloopError('BAD_CHECKPOINT', `${where}: not a sound index (${(cause as Error).message})`, { cause });
  }
}

/** The index of format 1, which has none: a file is a group, and holds its tensors whole. */
export function indexOfFile(file: string, { tensors }: Pick<SafetensorsHeader, 'tensors'>): Map<string, LogicalTensor> {
  return new Map(
    [...tensors].map(([name, { dtype, shape }]) => [
      name,
      { dtype, shape, parts: [[0, numelOf(shape), file, name] as const] },
    ]),
  );
}
