// `npm run test:oracle`: set-up, the Python environment with the peers (in the cache, made once), then test/oracle.
//   --environment   only makes the environment
// Other arguments go to vitest. The environment is <cache>/python; its stamp is written last, so that a cut-off install
// is taken up again. SHARDLOOP_ORACLE_PYTHON names an environment of your own instead.
import { spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { nativeSetup, prepare, root, say } from './setup.mjs';
import { vitest } from './test.mjs';

const requirements = join(root, 'test', 'oracle', 'requirements.txt');
const load = (name) => import(pathToFileURL(join(root, 'dist', 'setup', `${name}.js`)).href);

function must(command, args) {
  const { status, error } = spawnSync(command, args, { stdio: ['ignore', 2, 2] });
  if (status === 0) return;
  say(
    `${command} ${args.join(' ')} failed (${error?.message ?? `exit code ${status}`}); run the same command again to go on`,
  );
  process.exit(1);
}

/** Makes or completes the environment. */
export async function environment() {
  if (process.env.SHARDLOOP_ORACLE_PYTHON) return;
  const [{ cacheRoot }, { withLock }, { findPython }] = [
    await load('paths'),
    await load('lock'),
    await load('toolchain'),
  ];
  const cache = cacheRoot();
  const folder = join(cache, 'python');
  const stamp = join(folder, 'shardloop-stamp');
  const wanted = createHash('sha256').update(readFileSync(requirements)).digest('hex');
  const isDone = () => existsSync(stamp) && readFileSync(stamp, 'utf8').trim() === wanted;
  const make = async () => {
    if (isDone()) return;
    const python = await findPython();
    if (!python) {
      say('the oracle tests need python3 with venv and pip (Debian: apt-get install python3-venv python3-pip)');
      process.exit(1);
    }
    mkdirSync(cache, { recursive: true });
    const inside = join(folder, 'bin', 'python');
    if (spawnSync(inside, ['-m', 'pip', '--version'], { stdio: 'ignore' }).status !== 0) {
      say(`making a Python environment in ${folder}`);
      must(python.path, ['-m', 'venv', '--clear', folder]);
    }
    say('installing the Python peers (torch with CUDA, transformers, peft, ...: about 3 GB, once)');
    const start = Date.now();
    must(inside, [
      '-m',
      'pip',
      'install',
      '--quiet',
      '--no-cache-dir',
      '--disable-pip-version-check',
      '-r',
      requirements,
    ]);
    writeFileSync(stamp, `${wanted}\n`);
    say(`Python peers: installed in ${((Date.now() - start) / 1000).toFixed(0)} s`);
  };
  await withLock(join(cache, 'locks', 'python.lock'), make, say);
}

if (import.meta.filename === process.argv[1]) {
  const args = process.argv.slice(2);
  prepare();
  if (args.includes('--environment')) await environment();
  else {
    await nativeSetup();
    await environment();
    vitest(['--config', join('test', 'oracle', 'vitest.config.ts'), ...args]);
  }
}
