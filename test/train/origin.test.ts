// The fingerprint of a base model: the content counts, not the folder; of large files parts all over them.
import { closeSync, mkdirSync, mkdtempSync, openSync, rmSync, truncateSync, writeFileSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { fingerprint } from '../../lib/train/origin.js';

let root: string;
beforeAll(() => {
  root = mkdtempSync(join(tmpdir(), 'shardloop-origin-'));
});
afterAll(() => rmSync(root, { recursive: true }));

/** A folder with one file of `bytes` zeros (sparse), and `text` at the places of `at`. */
function folder(name: string, bytes: number, at: number[] = [], text = 'other'): string {
  const dir = join(root, name);
  mkdirSync(dir);
  const file = join(dir, 'model.safetensors');
  writeFileSync(file, '');
  truncateSync(file, bytes);
  const handle = openSync(file, 'r+');
  for (const place of at) writeSync(handle, text, place);
  closeSync(handle);
  return dir;
}

it('tells other content and other sizes, not other folders or other files', async () => {
  const same = await fingerprint(folder('a', 5000));
  const again = folder('b', 5000);
  writeFileSync(join(again, 'config.json'), '{}');
  expect(await fingerprint(again)).toBe(same);
  expect(await fingerprint(folder('c', 5000, [4000]))).not.toBe(same);
  expect(await fingerprint(folder('d', 5001))).not.toBe(same);
});

it('looks at the beginning, the end and parts between of a large file', async () => {
  const size = 100 * 2 ** 20;
  const zeros = await fingerprint(folder('large', size));
  const everywhere = Array.from({ length: 1600 }, (_, i) => i * 65536);
  for (const [i, at] of [[0], [size - 5], everywhere].entries()) {
    expect(await fingerprint(folder(`large-${i}`, size, at)), String(i)).not.toBe(zeros);
  }
});
