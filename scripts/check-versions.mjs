// Compiles and links the native sources against libtorch versions, and loads the CPU addon of each:
//   node scripts/check-versions.mjs [--cpu | --cuda] [--arch 90] VERSION...
// CPU and CUDA unless told otherwise. Needs no GPU and no CUDA toolkit: nvcc and the headers come from pip. The CUDA
// part is linked without undefined symbols, but can only be loaded on a host with a driver. Not part of set-up.
import { mkdirSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { pathToFileURL } from 'node:url';
import { prepare, root } from './setup.mjs';

const known = new Set(['--cpu', '--cuda', '--arch']);
const args = process.argv.slice(2);
const architectures = args.includes('--arch') ? args.splice(args.indexOf('--arch') + 1, 1)[0] : '90';
const flags = args.filter((arg) => arg.startsWith('--'));
const versions = args.filter((arg) => !arg.startsWith('--'));
if (flags.some((flag) => !known.has(flag)) || versions.length === 0 || !architectures) {
  process.stderr.write('usage: node scripts/check-versions.mjs [--cpu | --cuda] [--arch 90] VERSION...\n');
  process.exit(2);
}

prepare({ lenient: true });
const load = (name) => import(pathToFileURL(join(root, 'dist', 'setup', `${name}.js`)).href);
const [{ configureArguments }, { findLibtorch }, { fetchFromPip }, { inspect }] = [
  await load('addon'),
  await load('find'),
  await load('fetch-pip'),
  await load('libtorch'),
];
const [{ cacheRoot }, { probe }, { run, tail }, { since, stderrReport }, tools] = [
  await load('paths'),
  await load('probe'),
  await load('process'),
  await load('report'),
  await load('toolchain'),
];
const report = stderrReport();
const cache = cacheRoot();

/** A libtorch with CUDA of this very version: one that is on the machine, else what compiling needs, from pip. */
async function libtorchOf(version, cuda) {
  try {
    return await findLibtorch({ version, cuda, fetch: !cuda }, { cache, report, env: process.env });
  } catch (error) {
    if (!cuda || error.code === 'BAD_ARGUMENT') throw error;
    const python = await tools.findPython();
    if (!python) throw error;
    const found = inspect(await fetchFromPip(python, version, 'compile', cache, report), 'pip');
    if (typeof found === 'string') throw new Error(`the wheels of torch ${version}: ${found}`);
    return found;
  }
}

/** One build of one version in a folder of its own; returns what was found out, or throws. */
async function check(version) {
  const cuda = !flags.includes('--cpu');
  const cpu = !flags.includes('--cuda');
  const libtorch = await libtorchOf(version, cuda);
  const compiler = await tools.findCompiler();
  const cmake = await tools.findCMake();
  if (!compiler || !cmake) throw new Error('a C++ compiler and cmake >= 3.18 are needed');
  const nvcc = cuda ? await tools.findNvcc(libtorch.dir) : null;
  if (cuda && !nvcc) throw new Error(`there is no nvcc beside ${libtorch.dir}, on PATH or in CUDACXX`);
  const inputs = {
    root,
    libtorch,
    compiler: `${compiler.path} ${compiler.version}`,
    cuda: nvcc && { nvcc: nvcc.path, version: nvcc.version, architectures },
  };
  const work = join(root, 'build', `check-${version}`);
  const log = join(work, 'log');
  mkdirSync(work, { recursive: true });
  const start = Date.now();
  report.line(`${version}: compiling against ${libtorch.dir}${nvcc ? ` with nvcc ${nvcc.version}` : ''} (log: ${log})`);
  const must = async (...command) => {
    const ended = await run(cmake.path, command, { log, onLine: report.tick });
    if (ended.code !== 0) throw new Error(tail(ended, 40));
  };
  await must(...configureArguments(inputs, work));
  const targets = [...(cpu ? ['shardloop'] : []), ...(cuda ? ['shardloop_cuda'] : [])];
  await must('--build', work, '--parallel', '2', '--target', ...targets);
  const facts = [`built ${targets.join(' and ')} in ${since(start)}`];
  if (cpu) {
    const says = await probe(join(work, 'out', 'shardloop.node'));
    if (typeof says === 'string') throw new Error(`the addon does not load: ${says}`);
    if (says.libtorch !== version) throw new Error(`the addon runs on libtorch ${says.libtorch}; expected ${version}`);
    facts.push(`loads with ${says.ops} ops, Gloo ${says.gloo ? 'there' : 'missing'}`);
    if (!says.gloo) throw new Error('the addon has no Gloo');
  }
  rmSync(work, { recursive: true, force: true });
  return facts.join('; ');
}

for (const version of versions) {
  try {
    process.stdout.write(`${version}: ${await check(version)}\n`);
  } catch (error) {
    process.stdout.write(`${version}: FAILED\n${error.message}\n`);
    process.exitCode = 1;
  }
}
