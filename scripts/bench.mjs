// `npm run bench [-- NAME...] [--json] [--page FILE]`: set-up as far as it is missing, the Python environment with the peers
// (as for the oracle tests), then bench/index.ts, which says what the arguments are.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { environment } from './oracle.mjs';
import { nativeSetup, prepare, root } from './setup.mjs';

prepare();
await nativeSetup();
await environment();
const program = join(root, 'bench', 'index.ts');
const { status } = spawnSync(process.execPath, ['--import', 'tsx', program, ...process.argv.slice(2)], {
  cwd: root,
  stdio: 'inherit',
});
process.exitCode = status ?? 1;
