// `npm test`: set-up as far as it is missing, then the suite. Arguments go to vitest: `npm test -- test/setup`.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { nativeSetup, prepare, root } from './setup.mjs';

/** Runs vitest in this clone and ends as it ends. */
export function vitest(args) {
  const program = join(root, 'node_modules', 'vitest', 'vitest.mjs');
  const { status } = spawnSync(process.execPath, [program, 'run', ...args], { cwd: root, stdio: 'inherit' });
  process.exitCode = status ?? 1;
}

if (import.meta.filename === process.argv[1]) {
  prepare();
  await nativeSetup();
  vitest(process.argv.slice(2));
}
