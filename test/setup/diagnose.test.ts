// The doctor, on this machine as it is and on one that has nothing.
import { spawnSync } from 'node:child_process';
import { cpSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { formatDiagnosis } from '../../lib/cli/doctor.js';
import { type Diagnosis, diagnose } from '../../lib/setup/diagnose.js';
import { packageRoot } from '../../lib/setup/paths.js';
import { fakePython, temporary } from './fakes.js';

const folders: string[] = [];
afterAll(() => {
  for (const folder of folders) rmSync(folder, { recursive: true, force: true });
});

describe('the doctor on this machine, which is set up', () => {
  let healthy: Diagnosis;
  beforeAll(async () => {
    healthy = await diagnose();
  });

  it('finds everything that shardloop needs', () => {
    expect(healthy.problems).toEqual([]);
    expect(healthy.ok).toBe(true);
    expect(healthy.node.version).toBe(process.versions.node);
    expect(Number(healthy.node.napi)).toBeGreaterThanOrEqual(8);
    expect(healthy.addon?.ops).toBeGreaterThan(3000);
    expect(healthy.libtorch?.version).toMatch(/^2\.1[1-5]\./);
    expect(healthy.cpuCapability).toMatchObject({ from: 'libtorch' });
    expect(healthy.gloo).toBe(true);
    expect(healthy.cores).toBeGreaterThan(0);
    expect(healthy.memory.totalBytes).toBeGreaterThan(1e9);
    expect(healthy.sharedMemory?.totalBytes).toBeGreaterThan(0);
    expect(healthy.tools.compiler).toMatch(/\d+\.\d+/);
  });

  it('prints every fact that the command promises', () => {
    const text = formatDiagnosis(healthy);
    for (const fact of [
      'Node',
      'N-API',
      'libtorch',
      'CPU capability',
      'CUDA',
      'driver',
      'NCCL',
      'GPUs',
      'Gloo',
      'cores',
      'memory',
      '/dev/shm',
    ]) {
      expect(text).toContain(fact);
    }
    expect(text).toContain('Nothing is wrong.');
  });
});

describe('the doctor on a bare machine', () => {
  it('names each lack with the command that mends it, and is not stopped by any', async () => {
    const folder = temporary();
    folders.push(folder);
    const env = {
      PATH: folder,
      SHARDLOOP_CACHE: join(folder, 'cache'),
      SHARDLOOP_PYTHON: fakePython(folder, { pip: false }),
      CXX: '/nonexistent',
    };
    // A copy of lib/setup elsewhere: a package whose addon was never built.
    const bare = temporary();
    folders.push(bare);
    cpSync(join(packageRoot(), 'dist', 'setup'), join(bare, 'dist', 'setup'), { recursive: true });
    const program = `const { diagnose } = await import(${JSON.stringify(join(bare, 'dist', 'setup', 'diagnose.js'))});
      console.log(JSON.stringify(await diagnose()));`;
    const ran = spawnSync(process.execPath, ['--input-type=module', '-e', program], { env, encoding: 'utf8' });
    const sick = JSON.parse(ran.stdout) as Diagnosis;
    expect(sick.ok).toBe(false);
    const said = sick.problems.map(({ what, command }) => `${what} -> ${command}`).join('\n');
    expect(said).toMatch(/no libtorch that can be used.* -> npx shardloop setup/);
    expect(said).toMatch(/addon is not built -> npx shardloop setup/);
    expect(said).toMatch(/no C\+\+ compiler.* -> apt-get install g\+\+/);
    expect(said).toMatch(/no cmake >= 3.18.* -> apt-get install cmake/);
    expect(said).toMatch(/cannot be fetched.*no pip.* -> apt-get install python3-pip/);
    expect(sick.cpuCapability?.from).toBe('cpu flags');
    const text = formatDiagnosis(sick);
    expect(text).toMatch(/What is wrong, and the command that mends it:/);
    expect(text).toContain('apt-get install cmake');
  });
});
