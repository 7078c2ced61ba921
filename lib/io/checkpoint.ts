// Checkpoints: everything that a run needs to go on exactly, in a folder `checkpoint-<step>` that is complete or absent.
// Named groups of tensors, and state that is JSON. What they mean is the caller's (train/). Written here; read by
// checkpoint-read.ts.
//
// checkpoint-120/ part-00000.safetensors  what writer 0 holds; the key of a tensor is `<group>/<name>`
//                 ...                     one for each writer
//                 index.json              of every tensor its dtype, shape, and which elements lie in which file
//                 state.json              schedule, data position, and whatever else is JSON
//                 result/                 the result of the run but for the weights: configuration, tokenizer
//                 manifest.json           step, and of every other file its size and CRC-32
//                 COMMITTED               the SHA-256 of manifest.json; written last
// The folder is filled under a temporary name and renamed, so the marker is there in every folder of this name, unless
// somebody copied half of one. One process begins the folder, every writer adds its part, one process commits. (Older
// versions: format 2 has SHA-256 of every file, format 1 also a file for each group instead of parts and an index.)
import { createHash } from 'node:crypto';
import { readdir, readFile, stat, writeFile } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { crc32 } from 'node:zlib';
import { describe, ShardloopError, type Tensor } from '../core/index.js';
import { checkOptions } from '../core/options.js';
import { cleanLeftovers, exists, PendingFolder, removeFolderAtomic } from './atomic.js';
import { encodeIndex, joinRanges, type WrittenRange } from './checkpoint-index.js';
import { type WrittenFile, writeSafetensors } from './safetensors.js';

/** Any value that JSON can hold. */
export type Json = null | boolean | number | string | readonly Json[] | { readonly [key: string]: Json };

/** What a checkpoint holds. */
export interface CheckpointContent {
  /** Groups of tensors by name: model, optimizer, random, ... Group names are letters, digits, '-', '_' and '.'. */
  readonly tensors: Readonly<Record<string, ReadonlyMap<string, Tensor>>>;
  /** Everything else. Numbers must be finite (JSON would turn NaN into null). */
  readonly state: Json;
}

/** How {@link saveCheckpoint} keeps house. */
export interface SaveCheckpointOptions {
  /** Keep only the newest n checkpoints of the folder, this one included. Default: all. */
  readonly saveTotalLimit?: number;
  /** One that stays whatever its age: the name of its folder. Default: none. */
  readonly keep?: string;
}

/** What one writer holds of a tensor. */
export interface TensorPart {
  /** The elements, in any shape; where it is the whole tensor, in its own. */
  readonly tensor: Tensor;
  /** The shape of the whole tensor. */
  readonly shape: readonly number[];
  /** The first of the elements is this one of the whole tensor in row-major order. */
  readonly start: number;
}

/** Parts by group and name. */
export type PartGroups = Readonly<Record<string, ReadonlyMap<string, TensorPart>>>;

/** What one writer wrote. Plain JSON, so that it can travel to the process that commits. */
export interface PartReceipt extends WrittenFile {
  readonly file: string;
  readonly groups: readonly string[];
  readonly ranges: readonly WrittenRange[];
}

/** What a file of parts will hold, before it is written. */
export interface PartPlan {
  readonly file: string;
  readonly groups: readonly string[];
  /** By key. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  readonly ranges: readonly WrittenRange[];
}

export interface Manifest {
  readonly format: 1 | 2 | 3;
  readonly step: number;
  /** By name; the sum's kind is its key. Before format 3 it was a SHA-256, in hexadecimal. */
  readonly files: Readonly<Record<string, WrittenFile | { readonly bytes: number; readonly sha256: string }>>;
}

const NAME = /^checkpoint-(\d+)$/;
const GROUP = /^[A-Za-z0-9][A-Za-z0-9._-]*$/;
/** The folder in a checkpoint that holds the run's result but for the weights. */
export const RESULT = 'result';

/** Begins `<dir>/checkpoint-<step>`. Throws BAD_ARGUMENT for a step that is none. */
export async function beginCheckpoint(dir: string, step: number): Promise<PendingFolder> {
  if (!Number.isSafeInteger(step) || step < 0) throw badArgument('step', 'an integer from 0 up', step);
  await cleanLeftovers(dir);
  return PendingFolder.begin(join(dir, `checkpoint-${step}`));
}

/** What writer `writer` writes. Throws BAD_ARGUMENT for a bad group name. */
export function planPart(writer: number, groups: PartGroups): PartPlan {
  const file = `part-${String(writer).padStart(5, '0')}.safetensors`;
  const tensors = new Map<string, Tensor>();
  const ranges: WrittenRange[] = [];
  for (const [group, parts] of Object.entries(groups)) {
    if (!GROUP.test(group)) throw badArgument('group name', 'letters, digits, "-", "_" and "."', group);
    for (const [name, { tensor, shape, start }] of parts) {
      const key = `${group}/${name}`;
      tensors.set(key, tensor);
      const range = [start, start + tensor.numel, file, key] as const;
      ranges.push({ group, name, dtype: tensor.dtype, shape: [...shape], range });
    }
  }
  return { file, groups: Object.keys(groups), tensors, ranges };
}

/** Writes a part into the folder that was begun. Throws as {@link writeSafetensors}. */
export async function writePart(folder: string, { tensors, ...about }: PartPlan): Promise<PartReceipt> {
  return { ...about, ...(await writeSafetensors(join(folder, about.file), tensors)) };
}

/**
 * Closes a checkpoint into which all writers have written. `describe` fills the folder `result` with what is not
 * weights. Throws BAD_CHECKPOINT when a part is not there or the parts leave something out, BAD_ARGUMENT for a state
 * that is no JSON; the folder is then gone, and older checkpoints are as they were.
 */
export async function commitCheckpoint(
  pending: PendingFolder,
  content: {
    readonly step: number;
    readonly receipts: readonly PartReceipt[];
    readonly state: Json;
    readonly describe?: (folder: string) => Promise<void>;
  },
): Promise<void> {
  const { path: folder } = pending;
  const { step, receipts, state } = content;
  try {
    checkJson(state, 'state');
    const files: Record<string, WrittenFile> = {};
    for (const { file, bytes, crc32 } of receipts) {
      const found = await stat(join(folder, file)).catch(() => null);
      if (found?.size !== bytes) {
        const received = found === null ? 'it is not there' : `it has ${found.size}`;
        throw new ShardloopError(
          'BAD_CHECKPOINT',
          `${join(folder, file)}: expected the ${bytes} bytes that its writer wrote, ${received}; the folder of checkpoints must be one that all hosts share`,
        );
      }
      files[file] = { bytes, crc32 };
    }
    const index = encodeIndex(
      joinRanges(
        receipts.flatMap(({ ranges }) => ranges),
        receipts.flatMap(({ groups }) => groups),
        folder,
      ),
    );
    files['index.json'] = await writeText(join(folder, 'index.json'), index);
    files['state.json'] = await writeText(join(folder, 'state.json'), JSON.stringify(state));
    if (content.describe) {
      await content.describe(join(folder, RESULT));
      for (const name of (await readdir(join(folder, RESULT))).sort()) {
        files[`${RESULT}/${name}`] = sumOf(await readFile(join(folder, RESULT, name)));
      }
    }
    const manifest = JSON.stringify({ format: 3, step, files } satisfies Manifest, null, 2);
    await writeText(join(folder, 'manifest.json'), manifest);
    await writeText(join(folder, 'COMMITTED'), `${createHash('sha256').update(manifest).digest('hex')}\n`);
  } catch (error) {
    await pending.abort();
    throw error;
  }
  await pending.commit();
}

/**
 * Writes `<dir>/checkpoint-<step>` from one process, whole or not at all, replacing one of the same step, and then
 * removes the oldest ones beyond `saveTotalLimit`. Returns the path. Throws BAD_ARGUMENT for a bad step, group name, or
 * state that is no JSON; a full disk or the like leaves all earlier checkpoints as they are.
 */
export async function saveCheckpoint(
  dir: string,
  step: number,
  content: CheckpointContent,
  options: SaveCheckpointOptions = {},
): Promise<string> {
  checkOptions('saveCheckpoint', options, ['saveTotalLimit', 'keep']);
  const { saveTotalLimit: limit } = options;
  if (limit !== undefined && (!Number.isSafeInteger(limit) || limit < 1)) {
    throw badArgument('saveTotalLimit', 'a positive integer', limit);
  }
  checkJson(content.state, 'state');
  const pending = await beginCheckpoint(dir, step);
  let receipt: PartReceipt;
  try {
    const groups = Object.entries(content.tensors).map(([group, tensors]): [string, Map<string, TensorPart>] => [
      group,
      new Map([...tensors].map(([name, tensor]) => [name, { tensor, shape: tensor.shape, start: 0 }])),
    ]);
    receipt = await writePart(pending.path, planPart(0, Object.fromEntries(groups)));
  } catch (error) {
    await pending.abort();
    throw error;
  }
  await commitCheckpoint(pending, { step, receipts: [receipt], state: content.state });
  await removeOldest(dir, options);
  return join(dir, `checkpoint-${step}`);
}

async function writeText(path: string, text: string): Promise<WrittenFile> {
  await writeFile(path, text); // synced with the folder, before it gets its name
  return sumOf(Buffer.from(text));
}

function sumOf(bytes: Uint8Array): WrittenFile {
  return { bytes: bytes.byteLength, crc32: crc32(bytes) };
}

/** Removes the oldest complete checkpoints of a folder beyond a limit. */
export async function removeOldest(dir: string, { saveTotalLimit, keep }: SaveCheckpointOptions): Promise<void> {
  if (saveTotalLimit === undefined) return;
  for (const path of (await listCheckpoints(dir)).slice(0, -saveTotalLimit)) {
    if (basename(path) !== keep) await removeFolderAtomic(path);
  }
}

function badArgument(name: string, expected: string, value: unknown): ShardloopError {
  return new ShardloopError('BAD_ARGUMENT', `checkpoint: ${name}: expected ${expected}, received ${describe(value)}`);
}

function checkJson(value: unknown, where: string): void {
  if (value === null || typeof value === 'boolean' || typeof value === 'string') return;
  if (typeof value === 'number' && Number.isFinite(value)) return;
  if (Array.isArray(value)) {
    for (const [i, item] of value.entries()) checkJson(item, `${where}[${i}]`);
    return;
  }
  if (typeof value === 'object' && [Object.prototype, null].includes(Object.getPrototypeOf(value))) {
    for (const [key, item] of Object.entries(value as object))
      if (item !== undefined) checkJson(item, `${where}.${key}`);
    return;
  }
  throw badArgument(where, 'a value that JSON can hold', value);
}

/** The complete checkpoints of a folder, oldest step first. A folder that does not exist has none. */
export async function listCheckpoints(dir: string): Promise<string[]> {
  if (!(await exists(dir))) return [];
  const found: [number, string][] = [];
  for (const name of await readdir(dir)) {
    const match = NAME.exec(name);
    if (match && (await exists(join(dir, name, 'COMMITTED')))) found.push([Number(match[1]), join(dir, name)]);
  }
  return found.sort(([a], [b]) => a - b).map(([, path]) => path);
}

/** The complete checkpoint of the highest step in a folder, or null. */
export async function latestCheckpoint(dir: string): Promise<string | null> {
  await cleanLeftovers(dir);
  return (await listCheckpoints(dir)).at(-1) ?? null;
}
