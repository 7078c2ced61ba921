// Opening a checkpoint: every file checked against the manifest, then any elements of any tensor, mapped from the files
// that hold them, whatever number of writers wrote it. Writing, and the layout of the folder, stand in checkpoint.ts.
import { createHash } from 'node:crypto';
import { createReadStream } from 'node:fs';
import { readdir, readFile, realpath, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';
import { crc32 } from 'node:zlib';
import { describe, empty, noGrad, ops, ShardloopError, scope, type Tensor } from '../core/index.js';
import { checkOptions } from '../core/options.js';
import { exists } from './atomic.js';
import { type Json, listCheckpoints, type Manifest, RESULT } from './checkpoint.js';
import { type CheckpointIndex, decodeIndex, indexOfFile, type LogicalTensor, numelOf } from './checkpoint-index.js';
import { readSafetensors, type SafetensorsFile } from './safetensors.js';
import type { TensorSpec } from './safetensors-header.js';

/** An open checkpoint. */
export interface Checkpoint {
  readonly path: string;
  readonly step: number;
  readonly state: Json;
  /** The names of the groups of tensors. */
  readonly groups: readonly string[];
  /** The names of what the run's result consists of but for the weights, in the folder `result`; none in format 1. */
  readonly result: readonly string[];
  /** Dtype and shape of every tensor of a group. Throws BAD_CHECKPOINT when there is no such group. */
  specs(group: string): ReadonlyMap<string, TensorSpec>;
  /** New: one tensor, whole, on the CPU. Throws BAD_CHECKPOINT when it is not there. */
  tensor(group: string, name: string): Tensor;
  /**
   * New: the elements from `start` up to `end` of one tensor, in row-major order (end - start). No other elements are
   * read. Throws BAD_CHECKPOINT when they are not there.
   */
  elements(group: string, name: string, start: number, end: number): Tensor;
  /** New: all tensors of a group. Throws as {@link tensor}. */
  tensors(group: string): Map<string, Tensor>;
  /** Lets go of the memory that was read; tensors that were read stay usable, and the next one maps the file again. */
  release(): void;
  /** Lets go of the files; tensors that were read stay usable. */
  close(): void;
}

/** How {@link openCheckpoint} checks. */
export interface OpenCheckpointOptions {
  /**
   * Which share of the files is read to compare its sums, such as `[1, 4]`: every fourth from the second on, so that
   * several processes check all of them together. All are checked for their size. Default: all files.
   */
  readonly share?: readonly [index: number, count: number];
}

/**
 * Opens one checkpoint folder and checks its files against the manifest. Throws BAD_CHECKPOINT naming the file that is
 * missing, damaged or foreign, and what was expected.
 */
export async function openCheckpoint(path: string, options: OpenCheckpointOptions = {}): Promise<Checkpoint> {
  checkOptions('openCheckpoint', options, ['share']);
  const [own, count] = options.share ?? [0, 1];
  await requireCheckpoint(path);
  const { format, step, files } = await readManifest(path);
  const names = Object.keys(files);
  for (const name of names) await checkSize(join(path, name), files[name]!);
  for (const [i, name] of names.entries()) if (i % count === own) await checkSum(join(path, name), files[name]!);
  const state = JSON.parse(await readFile(join(path, 'state.json'), 'utf8')) as Json;
  const opened = new Map<string, SafetensorsFile>();
  for (const name of names) {
    if (name.endsWith('.safetensors')) opened.set(name, await readSafetensors(join(path, name)));
  }
  const index =
    format === 1 ? indexOfGroups(opened) : decodeIndex(await readFile(join(path, 'index.json'), 'utf8'), path);
  checkIndex(path, index, opened);
  const result = names.filter((name) => name.startsWith(`${RESULT}/`)).map((name) => name.slice(RESULT.length + 1));
  return new OpenCheckpoint({ path, step, state, result, index }, opened);
}

type ManifestFile = Manifest['files'][string];

/** Format 1: the name of a file is the name of its group. */
function indexOfGroups(files: ReadonlyMap<string, SafetensorsFile>): CheckpointIndex {
  return new Map(
    [...files].map(([name, file]) => {
      const tensors = new Map(file.names.map((key) => [key, file.entry(key)]));
      return [basename(name, '.safetensors'), indexOfFile(name, { tensors })];
    }),
  );
}

/** Everything that the index promises lies in the files, with this dtype and this many elements. */
function checkIndex(path: string, index: CheckpointIndex, files: ReadonlyMap<string, SafetensorsFile>): void {
  for (const tensors of index.values()) {
    for (const { dtype, parts } of tensors.values()) {
      for (const [start, end, name, key] of parts) {
        const file = files.get(name);
        const found = file?.has(key) ? file.entry(key) : null;
        if (found?.dtype === dtype && numelOf(found.shape) === end - start) continue;
        const received = found === null ? 'it does not' : `that is ${found.dtype} [${found.shape.join(', ')}]`;
        throw damaged(
          join(path, name),
          `expected it to hold ${end - start} elements of ${dtype} as ${key}, ${received}; it belongs to another checkpoint`,
        );
      }
    }
  }
}

class OpenCheckpoint implements Checkpoint {
  readonly path: string;
  readonly step: number;
  readonly state: Json;
  readonly result: readonly string[];
  readonly groups: readonly string[];
  readonly #index: CheckpointIndex;
  readonly #files: ReadonlyMap<string, SafetensorsFile>;

  constructor(
    about: Pick<Checkpoint, 'path' | 'step' | 'state' | 'result'> & { index: CheckpointIndex },
    files: ReadonlyMap<string, SafetensorsFile>,
  ) {
    this.path = about.path;
    this.step = about.step;
    this.state = about.state;
    this.result = about.result;
    this.groups = [...about.index.keys()];
    this.#index = about.index;
    this.#files = files;
  }

  specs(group: string): ReadonlyMap<string, LogicalTensor> {
    const tensors = this.#index.get(group);
    if (tensors !== undefined) return tensors;
    const holds = this.groups.join(', ') || 'none';
    throw damaged(this.path, `expected a group of tensors "${group}", it holds ${holds}`);
  }

  tensor(group: string, name: string): Tensor {
    const { shape } = this.#logical(group, name);
    return noGrad(() => scope(() => ops.view(this.elements(group, name, 0, numelOf(shape)), [...shape])));
  }

  elements(group: string, name: string, start: number, end: number): Tensor {
    const { dtype, shape, parts } = this.#logical(group, name);
    const numel = numelOf(shape);
    if (!(start >= 0 && start <= end && end <= numel)) {
      throw damaged(this.path, `${group} ${name}: expected elements within ${numel}, received ${start} to ${end}`);
    }
    if (start === end) return empty([0], { dtype });
    return noGrad(() =>
      scope(() => {
        const pieces = parts
          .filter(([from, to]) => from < end && to > start)
          .map(([from, to, file, key]) => {
            const flat = ops.view(this.#files.get(file)!.tensor(key), [-1]);
            return ops.slice(flat, { dim: 0, start: Math.max(start, from) - from, end: Math.min(end, to) - from });
          });
        return pieces.length === 1 ? pieces[0]! : ops.cat(pieces);
      }),
    );
  }

  tensors(group: string): Map<string, Tensor> {
    return new Map([...this.specs(group).keys()].map((name) => [name, this.tensor(group, name)]));
  }

  release(): void {
    for (const file of this.#files.values()) file.close();
  }

  close(): void {
    this.release();
  }

  #logical(group: string, name: string): LogicalTensor {
    const found = this.specs(group).get(name);
    if (found !== undefined) return found;
    throw damaged(this.path, `expected a tensor "${name}" in the group "${group}"`);
  }
}

/** BAD_CHECKPOINT when `path` is not the folder of one checkpoint; it names those that lie beside it, or in it. */
export async function requireCheckpoint(path: string): Promise<void> {
  const stats = await stat(path).catch(() => null);
  if (stats !== null && !stats.isDirectory()) throw damaged(path, "expected a checkpoint's folder, it is a file");
  if (stats !== null) {
    const inside = (await exists(join(path, 'COMMITTED'))) ? [] : await listCheckpoints(path);
    if (inside.length > 0)
      throw damaged(path, `expected one checkpoint, it holds several: ${namesOf(inside)}; name one`);
    if (!(await isLike(path))) throw damaged(path, await noCheckpoint(path));
    return;
  }
  const parent = /^[./]+$/.test(dirname(path)) ? resolve(dirname(path)) : dirname(path); // '.' would read as a full stop
  const beside = await listCheckpoints(parent).catch(() => []);
  const lies = beside.length > 0 ? `${parent} holds ${namesOf(beside)}` : `${parent} holds no checkpoint`;
  const advice = (await exists(parent)) ? lies : `there is no folder ${parent} either`;
  throw damaged(path, `expected a checkpoint's folder, there is no such folder; ${advice}`);
}

/** Whether it is, or was to become, a checkpoint: then it may be incomplete. */
async function isLike(path: string): Promise<boolean> {
  const named = /^checkpoint-\d+$/.test(basename(await realpath(path)));
  const files = ['COMMITTED', 'manifest.json', 'state.json'].map((name) => exists(join(path, name)));
  return named || (await Promise.all(files)).includes(true);
}

async function noCheckpoint(path: string): Promise<string> {
  const names = (await readdir(path)).sort();
  const more = names.length > MOST_NAMES ? ` and ${names.length - MOST_NAMES} more` : '';
  const holds = names.length > 0 ? `it holds ${names.slice(0, MOST_NAMES).join(', ')}${more}` : 'it is empty';
  return `expected a checkpoint's folder, such as checkpoint-N, latest or best in a run's folder; this is none: ${holds}`;
}

const MOST_NAMES = 8;

function namesOf(paths: readonly string[]): string {
  const older = paths.length > MOST_NAMES ? `${paths.length - MOST_NAMES} older ones, ` : '';
  return (
    older +
    paths
      .slice(-MOST_NAMES)
      .map((path) => basename(path))
      .join(', ')
  );
}

async function readManifest(path: string): Promise<Manifest> {
  const read = async (name: string) =>
    readFile(join(path, name), 'utf8').catch((cause: NodeJS.ErrnoException) => {
      throw damaged(
        path,
        `expected the file ${name}, it cannot be read (${cause.code}); the checkpoint is incomplete`,
        cause,
      );
    });
  const marker = (await read('COMMITTED')).trim();
  const text = await read('manifest.json');
  if (createHash('sha256').update(text).digest('hex') !== marker) {
    throw damaged(
      path,
      'manifest.json is not the one that COMMITTED marks; the checkpoint is damaged or mixed from two',
    );
  }
  const manifest = JSON.parse(text) as Manifest;
  if (![1, 2, 3].includes(manifest.format))
    throw damaged(path, `expected format 1, 2 or 3, received ${describe(manifest.format)}; use a newer shardloop`);
  return manifest;
}

async function checkSize(path: string, expected: ManifestFile): Promise<void> {
  const stats = await stat(path).catch(() => null);
  if (stats === null) throw damaged(path, `expected a file of ${expected.bytes} bytes, it is missing`);
  if (stats.size !== expected.bytes) throw damaged(path, `expected ${expected.bytes} bytes, received ${stats.size}`);
}

async function checkSum(path: string, expected: ManifestFile): Promise<void> {
  const chunks = createReadStream(path, { highWaterMark: 4 << 20 }) as AsyncIterable<Buffer>;
  if ('sha256' in expected) {
    const hash = createHash('sha256');
    for await (const chunk of chunks) hash.update(chunk);
    if (hash.digest('hex') === expected.sha256) return;
  } else {
    let sum = 0;
    for await (const chunk of chunks) sum = crc32(chunk, sum);
    if (sum === expected.crc32) return;
  }
  const kind = 'sha256' in expected ? 'SHA-256' : 'CRC-32';
  throw damaged(path, `its content is not what was written (${kind} differs)`);
}

function damaged(path: string, what: string, cause?: unknown): ShardloopError {
  return new ShardloopError('BAD_CHECKPOINT', `${path}: ${what}`, { cause });
}
