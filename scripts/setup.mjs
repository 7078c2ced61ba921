// `npm run setup`: everything between a clean clone and a working shardloop. Needs plain Node and nothing installed:
// npm ci -> tsc -> lib/setup (libtorch, native build). Run again, it does only what is missing; it can be interrupted
// anywhere. Flags: those of `shardloop setup`, and --native (type errors do not stop it; for work on native/).
import { spawnSync } from 'node:child_process';
import { chmodSync, existsSync, readFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath, pathToFileURL } from 'node:url';

export const root = join(dirname(fileURLToPath(import.meta.url)), '..');

/** Whether node_modules holds what package-lock.json names; npm writes its own list when it has finished. */
export function dependenciesAreFresh(folder = root) {
  const read = (path) => JSON.parse(readFileSync(path, 'utf8')).packages;
  const hidden = join(folder, 'node_modules', '.package-lock.json');
  if (!existsSync(hidden)) return false;
  const have = read(hidden);
  return Object.entries(read(join(folder, 'package-lock.json'))).every(
    ([path, want]) => path === '' || want.optional || want.link || have[path]?.version === want.version,
  );
}

/** A line of set-up's own on stderr. */
export function say(text) {
  process.stderr.write(`[setup] ${text}\n`);
}

/** Runs a program with its output shown; ends this process when it fails, unless told that it may (then it is silent). */
function must(what, command, args, mayFail = false) {
  const start = Date.now();
  const stdio = mayFail ? 'ignore' : ['ignore', 2, 2];
  const { status, error, signal } = spawnSync(command, args, { cwd: root, stdio });
  if (status === 0) return say(`${what}: done in ${((Date.now() - start) / 1000).toFixed(1)} s`);
  say(`${what} failed (${error?.message ?? signal ?? `exit code ${status}`}); run the same command again to go on`);
  if (!mayFail) process.exit(signal === 'SIGINT' ? 130 : 1);
}

/** node_modules and dist, as far as they are missing. Type errors stop it unless `lenient`. */
export function prepare({ lenient = false } = {}) {
  const [major, minor] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    say(`shardloop needs Node >= 20.19; this is Node ${process.versions.node}. Install a newer Node.`);
    process.exit(1);
  }
  if (dependenciesAreFresh()) say('node_modules: up to date');
  else {
    say('node_modules: npm ci');
    must('npm ci', 'npm', ['ci', '--no-audit', '--no-fund']);
  }
  say('TypeScript: lib -> dist');
  must('tsc -b', process.execPath, [join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-b'], lenient);
  const cli = join(root, 'dist', 'cli', 'index.js');
  if (existsSync(cli)) chmodSync(cli, 0o755); // `npx shardloop` in a clone runs the file itself.
}

/** The set-up of lib/setup, as the clone has it in dist; ends this process with the page of help when it fails. */
export async function nativeSetup(options = {}) {
  const { setup } = await import(pathToFileURL(join(root, 'dist', 'setup', 'setup.js')).href);
  try {
    return await setup(options);
  } catch (error) {
    process.stderr.write(`\n${error.name === 'SetupError' ? error.message : error.stack}\n`);
    process.exit(1);
  }
}

function options(args) {
  const found = {};
  const names = {
    '--libtorch': 'libtorch',
    '--torch-version': 'version',
    '--archive': 'archive',
    '--archive-sha256': 'archiveSha256',
  };
  for (let i = 0; i < args.length; i++) {
    const arg = args[i];
    if (arg === '--native') found.lenient = true;
    else if (arg === '--cuda' || arg === '--no-cuda') found.cuda = arg === '--cuda';
    else if (arg === '--force') found.force = true;
    else if (names[arg] && i + 1 < args.length) found[names[arg]] = args[++i];
    else {
      say(`unknown flag ${arg}; known: --native --cuda --no-cuda --force ${Object.keys(names).join(' ')}`);
      process.exit(2);
    }
  }
  return found;
}

if (process.argv[1] && fileURLToPath(import.meta.url) === process.argv[1]) {
  const { lenient, ...rest } = options(process.argv.slice(2));
  prepare({ lenient });
  await nativeSetup(rest);
  say('ready: `npm test`, `npm run quickstart`, `npx shardloop --help`');
}
