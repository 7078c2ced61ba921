// A folder's weights as Hugging Face lays them out: `<stem>.safetensors`, or several files with
// `<stem>.safetensors.index.json`. Read as one source, written in files of a largest size.
// Not here: what the tensors mean (models/), one file's bytes (safetensors.ts).
import { readdir, readFile, rm } from 'node:fs/promises';
import { basename, join } from 'node:path';
import { describe, dtypeBytes, ShardloopError, type Tensor } from '../core/index.js';
import { exists, writeFileAtomic } from './atomic.js';
import {
  readSafetensors,
  type SafetensorsFile,
  type TensorSource,
  type Writable,
  writeSafetensors,
} from './safetensors.js';
import { duplicateKey, type TensorEntry } from './safetensors-header.js';

/** Several safetensors files that an index joins. */
class SafetensorsSet implements TensorSource {
  readonly names: readonly string[];
  readonly metadata: Readonly<Record<string, string>>;
  readonly #fileOf: ReadonlyMap<string, SafetensorsFile>;
  readonly #index: string;

  constructor(index: string, fileOf: ReadonlyMap<string, SafetensorsFile>) {
    this.#index = index;
    this.#fileOf = fileOf;
    this.names = [...fileOf.keys()];
    this.metadata = Object.assign({}, ...[...new Set(fileOf.values())].map((file) => file.metadata));
  }

  has(name: string): boolean {
    return this.#fileOf.has(name);
  }

  entry(name: string): TensorEntry {
    return this.#file(name).entry(name);
  }

  tensor(name: string): Tensor {
    return this.#file(name).tensor(name);
  }

  close(): void {
    for (const file of this.#fileOf.values()) file.close();
  }

  #file(name: string): SafetensorsFile {
    const file = this.#fileOf.get(name);
    if (file !== undefined) return file;
    throw new ShardloopError('BAD_SAFETENSORS', `${this.#index}: expected a tensor ${describe(name)}, it lists none`);
  }
}

/**
 * Opens the weights of a folder: `<stem>.safetensors`, else the files that `<stem>.safetensors.index.json` lists.
 * Throws BAD_SAFETENSORS when neither is there, or a file is missing, damaged, or lacks a tensor that the index
 * promises. Pickles (`.bin`, `.pt`) are never read.
 */
export async function openSafetensorsFolder(folder: string, stem = 'model'): Promise<TensorSource> {
  const single = join(folder, `${stem}.safetensors`);
  if (await exists(single)) return readSafetensors(single);
  const index = `${single}.index.json`;
  if (await exists(index)) return openIndex(folder, index);
  const names = await readdir(folder).catch(() => [] as string[]);
  const pickle = names.find((name) => /\.(bin|pt|pth|ckpt)$/.test(name));
  const advice = pickle
    ? `; ${pickle} is a pickle, which shardloop never reads: save the model again with safe_serialization=True`
    : '';
  throw new ShardloopError(
    'BAD_SAFETENSORS',
    `${folder}: expected ${stem}.safetensors or ${stem}.safetensors.index.json, found neither${advice}`,
  );
}

async function openIndex(folder: string, index: string): Promise<TensorSource> {
  const fileOf = new Map<string, SafetensorsFile>();
  const files = new Map<string, SafetensorsFile>();
  for (const [name, fileName] of parseIndex(await readFile(index, 'utf8'), index)) {
    let file = files.get(fileName);
    if (file === undefined) {
      const path = join(folder, fileName);
      if (!(await exists(path))) {
        throw new ShardloopError(
          'BAD_SAFETENSORS',
          `${index}: lists ${describe(fileName)}, which is not in the folder`,
        );
      }
      file = await readSafetensors(path);
      files.set(fileName, file);
    }
    file.entry(name);
    fileOf.set(name, file);
  }
  return new SafetensorsSet(index, fileOf);
}

/**
 * The pairs of tensor name and file name of an index, from its JSON text.
 * Throws BAD_SAFETENSORS for anything but a `weight_map` of plain file names.
 */
export function parseIndex(text: string, index: string): [string, string][] {
  const wrong = (what: string, cause?: unknown) =>
    new ShardloopError('BAD_SAFETENSORS', `${index}: not a sound safetensors index: ${what}`, { cause });
  let root: unknown;
  try {
    root = JSON.parse(text);
  } catch (cause) {
    throw wrong(`not valid JSON (${(cause as Error).message})`, cause);
  }
  const twice = duplicateKey(text);
  if (twice !== null) throw wrong(`it names ${describe(twice)} twice`);
  const map = (root as { weight_map?: unknown } | null)?.weight_map;
  if (typeof map !== 'object' || map === null || Array.isArray(map)) {
    throw wrong(`expected an object "weight_map", found ${describe(map)}`);
  }
  return Object.entries(map).map(([name, file]) => {
    if (typeof file !== 'string' || file === '' || basename(file) !== file || file === '..' || file.includes('\0')) {
      throw wrong(`weight_map[${describe(name)}] must be the name of a file in the folder, it is ${describe(file)}`);
    }
    return [name, file];
  });
}

/** How {@link writeSafetensorsFolder} lays the files out. */
export interface WriteFolderOptions {
  /** The beginning of the file names. Default 'model'. */
  readonly stem?: string;
  /** The largest size of one file in bytes (a single larger tensor has a file of its own). Default 5e9. */
  readonly maxShardBytes?: number;
  /** Written into every file. Default `{ format: 'pt' }`, which Python's transformers asks for. */
  readonly metadata?: Readonly<Record<string, string>>;
}

/**
 * Writes tensors as `<stem>.safetensors`, or beyond `maxShardBytes` as numbered files with an index. Each file appears
 * whole or not at all; files of an earlier save that no longer belong are removed at the end.
 */
export async function writeSafetensorsFolder(
  folder: string,
  tensors: ReadonlyMap<string, Writable>,
  options: WriteFolderOptions = {},
): Promise<void> {
  const { stem = 'model', maxShardBytes = 5e9, metadata = { format: 'pt' } } = options;
  if (!(maxShardBytes > 0)) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `maxShardBytes: expected a positive number, received ${describe(maxShardBytes)}`,
    );
  }
  const shards = split(tensors, maxShardBytes);
  const written = new Set<string>();
  const weightMap: Record<string, string> = Object.create(null);
  for (const [number, shard] of shards.entries()) {
    const part = (n: number) => String(n).padStart(5, '0');
    const name =
      shards.length === 1 ? `${stem}.safetensors` : `${stem}-${part(number + 1)}-of-${part(shards.length)}.safetensors`;
    await writeSafetensors(join(folder, name), shard, metadata);
    written.add(name);
    for (const tensor of shard.keys()) weightMap[tensor] = name;
  }
  if (shards.length > 1) {
    const name = `${stem}.safetensors.index.json`;
    const total = [...tensors.values()].reduce((sum, tensor) => sum + sizeOf(tensor), 0);
    const index = { metadata: { total_size: total }, weight_map: weightMap };
    await writeFileAtomic(join(folder, name), `${JSON.stringify(index, null, 2)}\n`);
    written.add(name);
  }
  const ours = new RegExp(`^${escapePattern(stem)}(-\\d{5}-of-\\d{5})?\\.safetensors(\\.index\\.json)?$`);
  for (const name of await readdir(folder)) {
    if (ours.test(name) && !written.has(name)) await rm(join(folder, name), { force: true });
  }
}

function split(tensors: ReadonlyMap<string, Writable>, maxBytes: number): Map<string, Writable>[] {
  const shards = [new Map<string, Writable>()];
  let bytes = 0;
  for (const [name, tensor] of tensors) {
    if (bytes > 0 && bytes + sizeOf(tensor) > maxBytes) {
      shards.push(new Map());
      bytes = 0;
    }
    shards.at(-1)!.set(name, tensor);
    bytes += sizeOf(tensor);
  }
  return shards;
}

function sizeOf(tensor: Writable): number {
  return tensor.numel * dtypeBytes(tensor.dtype);
}

function escapePattern(text: string): string {
  return text.replace(/[.*+?^${}()|[\]\\]/g, '\\$&');
}
