// The tarball: what is in it, and that an empty project can install it, set it up and train with it in TypeScript.
import { type SpawnSyncReturns, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { readRecord } from '../../lib/setup/locate.js';
import { addonInPackage, packageRoot } from '../../lib/setup/paths.js';
import { temporary } from './fakes.js';

const root = packageRoot();
const project = temporary();
const installed = join(project, 'node_modules', 'shardloop');
let files: string[] = [];

function must(command: string, args: string[], cwd: string): SpawnSyncReturns<string> {
  const env = Object.fromEntries(Object.entries(process.env).filter(([name]) => !/^npm_/i.test(name)));
  const ran = spawnSync(command, args, { cwd, env, encoding: 'utf8' });
  expect(ran.status, `${command} ${args.join(' ')}\n${ran.stdout}\n${ran.stderr}`).toBe(0);
  return ran;
}

beforeAll(() => {
  const packed = must('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', project], root);
  const [report] = JSON.parse(packed.stdout) as [{ filename: string; files: { path: string }[] }];
  files = report.files.map(({ path }) => path);
  writeFileSync(join(project, 'package.json'), JSON.stringify({ name: 'empty', type: 'module', private: true }));
  must('npm', ['install', '--no-audit', '--no-fund', '--prefer-offline', join(project, report.filename)], project);
}, 300_000);
afterAll(() => rmSync(project, { recursive: true, force: true }));

it('holds what is built and what builds the addon, and no sources of tests, bench or docs', () => {
  for (const name of [
    'dist/index.js',
    'dist/index.d.ts',
    'dist/cli/index.js',
    'dist/setup/setup.js',
    'native/addon.cc',
  ]) {
    expect(files).toContain(name);
  }
  for (const name of ['CMakeLists.txt', 'binding.gyp', 'LICENSE', 'README.md', 'package.json'])
    expect(files).toContain(name);
  const strange = files.filter((name) => !/^(dist|native)\//.test(name) && !/^[A-Z]+\.md$/.test(name));
  expect(strange.sort()).toEqual(['CMakeLists.txt', 'LICENSE', 'binding.gyp', 'package.json']);
  expect(files.filter((name) => /\.(test|bench)\.|tsbuildinfo|(^|\/)test\//.test(name))).toEqual([]);
});

it('needs an explicit set-up, and says so at the first use', () => {
  const use = "const { zeros } = await import('shardloop'); zeros([1]);";
  const ran = spawnSync(process.execPath, ['--input-type=module', '-e', use], { cwd: project, encoding: 'utf8' });
  expect(ran.status).toBe(1);
  expect(ran.stderr).toMatch(/ADDON_MISSING/);
  expect(ran.stderr).toMatch(/What was tried:[\s\S]*What to do:[\s\S]*npx shardloop setup/);
});

it("is set up by npx, and then the README's loop passes the type checker and runs", () => {
  const ran = must('npx', ['shardloop', 'setup'], project);
  expect(ran.stderr).toMatch(/loads, \d+ ops/);
  expect(readRecord(addonInPackage(installed))?.key).toBeDefined();

  const readme = readFileSync(join(root, 'README.md'), 'utf8');
  const loop = /```ts\n([\s\S]*?)```/.exec(readme)?.[1] ?? '';
  expect(loop.split('\n').filter((line) => line.trim()).length).toBeLessThanOrEqual(24);
  writeFileSync(join(project, 'loop.ts'), loop);
  writeFileSync(join(project, 'text.txt'), 'To be, or not to be, that is the question. '.repeat(50));

  // TypeScript, Node's types and tsx are this clone's: every TypeScript project has them.
  mkdirSync(join(project, 'node_modules', '@types'), { recursive: true });
  for (const name of ['@types/node', 'undici-types']) {
    if (!existsSync(join(project, 'node_modules', name))) {
      symlinkSync(join(root, 'node_modules', name), join(project, 'node_modules', name));
    }
  }
  const config = {
    module: 'nodenext',
    target: 'es2022',
    lib: ['es2023', 'esnext.disposable'],
    strict: true,
    noEmit: true,
  };
  const tsconfig = { compilerOptions: { ...config, types: ['node'] }, files: ['loop.ts'] };
  writeFileSync(join(project, 'tsconfig.json'), JSON.stringify(tsconfig));
  must(process.execPath, [join(root, 'node_modules', 'typescript', 'bin', 'tsc'), '-p', '.'], project);

  const tsx = join(root, 'node_modules', 'tsx', 'dist', 'loader.mjs');
  const trained = must(process.execPath, ['--import', tsx, 'loop.ts', 'text.txt'], project);
  const losses = [...trained.stdout.matchAll(/loss (\d+\.\d+)/g)].map(([, loss]) => Number(loss));
  expect(losses.length).toBeGreaterThanOrEqual(5);
  expect(losses.at(-1)).toBeLessThan((losses[0] ?? 0) / 2);
}, 300_000);
