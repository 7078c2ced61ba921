// What can only be checked on a host with a GPU: set-up with the CUDA part, the doctor's view, and test/gpu.
//   node scripts/device-check.mjs [vitest arguments]
// Fails with a sentence on a host without a CUDA driver. Not part of CI, which has no GPU.
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { nativeSetup, prepare, root, say } from './setup.mjs';
import { vitest } from './test.mjs';

prepare();
const { cudaDriver } = await import(pathToFileURL(join(root, 'dist', 'setup', 'toolchain.js')).href);
const driver = cudaDriver();
if (driver === null) {
  say('this host has no CUDA driver: there is nothing to check here');
  process.exitCode = 1;
} else {
  say(`CUDA driver: ${driver}`);
  await nativeSetup({ cuda: true });
  spawnSync(process.execPath, [join(root, 'dist', 'cli', 'index.js'), 'doctor'], { stdio: 'inherit' });
  vitest(['--config', join('test', 'gpu', 'vitest.config.ts'), ...process.argv.slice(2)]);
}
