// Checkpoints as older versions wrote them, with SHA-256 of every file: format 2, and format 1, which has a file for each
// group and no index.
import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint, writeSafetensors } from '../../lib/io/index.js';

/** Writes a checkpoint of one writer anew in format 1, in its place. */
export async function toFormat1(path: string): Promise<void> {
  const checkpoint = await openCheckpoint(path);
  for (const group of checkpoint.groups) {
    const tensors = checkpoint.tensors(group);
    await writeSafetensors(join(path, `${group}.safetensors`), tensors);
    for (const t of tensors.values()) t.dispose();
  }
  checkpoint.close();
  for (const name of ['part-00000.safetensors', 'index.json', 'result'])
    rmSync(join(path, name), { recursive: true, force: true });
  seal(path, 1);
}

/** Writes the manifest of a checkpoint anew as format 2 did. */
export function toFormat2(path: string): void {
  seal(path, 2);
}

/** Manifest and marker for the files that are there. */
function seal(path: string, format: number): void {
  const { step } = JSON.parse(readFileSync(join(path, 'manifest.json'), 'utf8'));
  const sum = (bytes: Uint8Array | string) => createHash('sha256').update(bytes).digest('hex');
  const names = readdirSync(path, { recursive: true }) as string[];
  const files: Record<string, unknown> = {};
  for (const name of names.filter((name) => /\.(safetensors|json|txt)$/.test(name) && name !== 'manifest.json')) {
    const bytes = readFileSync(join(path, name));
    files[name] = { bytes: bytes.byteLength, sha256: sum(bytes) };
  }
  const manifest = JSON.stringify({ format, step, files });
  writeFileSync(join(path, 'manifest.json'), manifest);
  writeFileSync(join(path, 'COMMITTED'), `${sum(manifest)}\n`);
}
