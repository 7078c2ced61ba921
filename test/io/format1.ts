// A checkpoint as older versions wrote it (format 1): a file for each group, and no index.
import { createHash } from 'node:crypto';
import { readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { openCheckpoint, writeSafetensors } from '../../lib/io/index.js';

/** Writes a checkpoint of one writer anew in format 1, in its place. */
export async function toFormat1(path: string): Promise<void> {
  const checkpoint = await openCheckpoint(path);
  const { step, groups } = checkpoint;
  const files: Record<string, unknown> = {};
  for (const group of groups) {
    const tensors = checkpoint.tensors(group);
    files[`${group}.safetensors`] = await writeSafetensors(join(path, `${group}.safetensors`), tensors);
    for (const t of tensors.values()) t.dispose();
  }
  checkpoint.close();
  for (const name of ['part-00000.safetensors', 'index.json', 'result'])
    rmSync(join(path, name), { recursive: true, force: true });
  const sum = (text: string) => createHash('sha256').update(text).digest('hex');
  const state = readFileSync(join(path, 'state.json'), 'utf8');
  files['state.json'] = { bytes: Buffer.byteLength(state), sha256: sum(state) };
  const manifest = JSON.stringify({ format: 1, step, files });
  writeFileSync(join(path, 'manifest.json'), manifest);
  writeFileSync(join(path, 'COMMITTED'), `${sum(manifest)}\n`);
}
