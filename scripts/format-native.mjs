// clang-format over native/: rewrites the files, or with --check only says which ones it would.
import { spawnSync } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = join(dirname(fileURLToPath(import.meta.url)), '..');
const files = readdirSync(join(root, 'native'), { recursive: true })
  .filter((name) => /\.(cc|h|cu|cuh)$/.test(name))
  .map((name) => join('native', name))
  .sort();
const mode = process.argv.includes('--check') ? ['--dry-run', '-Werror'] : ['-i'];
const binary = join(root, 'node_modules', '.bin', 'clang-format');
const { status, error } = spawnSync(binary, [...mode, ...files], { cwd: root, stdio: 'inherit' });
if (error) process.stderr.write(`${error.message}: run \`npm run setup\` first\n`);
process.exitCode = status ?? 1;
