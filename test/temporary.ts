// Folders for the tests of a file, removed behind its last test.
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll } from 'vitest';

const made: string[] = [];
afterAll(() => {
  for (const path of made.splice(0)) rmSync(path, { recursive: true, force: true });
});

/** A new folder; `name` says whose it is, should it ever be found. */
export function temporaryFolder(name: string): string {
  const path = mkdtempSync(join(tmpdir(), `shardloop-${name}-`));
  made.push(path);
  return path;
}
