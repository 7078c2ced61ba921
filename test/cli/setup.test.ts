// `shardloop setup` and `shardloop doctor` as programs: every flag, exit codes, JSON. What they do is tested in test/setup.
import { spawnSync } from 'node:child_process';
import { rmSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { packageRoot } from '../../lib/setup/paths.js';
import { fakeLibtorch, makeZip, temporary, versionHeader } from '../setup/fakes.js';

const folder = temporary();
afterAll(() => rmSync(folder, { recursive: true, force: true }));

function shardloop(args: string[], env: Record<string, string> = {}) {
  const cli = join(packageRoot(), 'dist', 'cli', 'index.js');
  return spawnSync(process.execPath, [cli, ...args], { encoding: 'utf8', env: { ...process.env, ...env } });
}

describe('shardloop setup', () => {
  it('prints what it did', () => {
    const ran = shardloop(['setup', '--json']);
    expect(ran.status).toBe(0);
    const result = JSON.parse(ran.stdout) as { did: string; ops: number; libtorch: { version: string } };
    expect(result.did).toMatch(/^(kept|cached|built)$/);
    expect(result.ops).toBeGreaterThan(3000);
    expect(ran.stderr).toContain(`libtorch ${result.libtorch.version} from`);
  });

  it('reads --libtorch, and tells a failure as a page and as JSON', () => {
    const ran = shardloop(['setup', '--libtorch', '/none', '--json']);
    expect(ran.status).toBe(1);
    expect(ran.stderr).toMatch(/the option --libtorch = \/none\n.*no such folder[\s\S]*What to do:/);
    expect(JSON.parse(ran.stdout)).toMatchObject({ error: { code: 'LIBTORCH_MISSING' } });
    expect(shardloop(['setup'], { SHARDLOOP_LIBTORCH: '/none' }).stderr).toMatch(/SHARDLOOP_LIBTORCH = \/none/);
  });

  it('reads --torch-version', () => {
    expect(shardloop(['setup', '--torch-version', '2.9.0']).stderr).toMatch(/libtorch 2\.9\.0 cannot be set up/);
  });

  it('reads --archive and --archive-sha256', () => {
    const zip = makeZip(join(folder, 'a.zip'), {
      'libtorch/include/ATen/ATen.h': '',
      'libtorch/include/torch/headeronly/version.h': versionHeader('2.14.1'),
    });
    const env = { SHARDLOOP_CACHE: join(folder, 'cache') };
    expect(shardloop(['setup', '--archive', zip], env).stderr).toMatch(/its checksum is not pinned/);
    const wrong = shardloop(['setup', '--archive', zip, '--archive-sha256', 'a'.repeat(64)], env);
    expect(wrong.stderr).toMatch(/the SHA-256 of .*a\.zip is [0-9a-f]{64}; expected a{64}/);
    const named = { ...env, SHARDLOOP_ARCHIVE: zip, SHARDLOOP_ARCHIVE_SHA256: 'b'.repeat(64) };
    expect(shardloop(['setup'], named).stderr).toMatch(/expected b{64}/);
  });

  it('reads --cuda and --no-cuda', () => {
    const libtorch = fakeLibtorch(join(folder, 'torch'), '2.14.1');
    expect(shardloop(['setup', '--cuda', '--libtorch', libtorch]).stderr).toMatch(/CPU build, and CUDA is wanted/);
    expect(shardloop(['setup', '--no-cuda']).stderr).toMatch(/without the CUDA part: it was refused by --no-cuda/);
  });

  it('refuses what it does not know', () => {
    expect(shardloop(['setup', '--libtorh', 'x']).status).toBe(2);
  });
});

describe('shardloop doctor', () => {
  it('prints facts, and ends with 0 where nothing is wrong', () => {
    const ran = shardloop(['doctor']);
    expect(ran.stdout).toMatch(/Nothing is wrong\./);
    expect(ran.status).toBe(0);
    const json = JSON.parse(shardloop(['doctor', '--json']).stdout) as Record<string, unknown>;
    expect(Object.keys(json)).toEqual(
      expect.arrayContaining([
        'node',
        'libtorch',
        'cpuCapability',
        'cuda',
        'driver',
        'nccl',
        'gpus',
        'gloo',
        'sharedMemory',
      ]),
    );
  });

  it('ends with 1 where something is wrong, in both forms', () => {
    const env = { SHARDLOOP_ADDON: join(folder, 'not-an-addon.node'), CI: 'true' }; // no colours into a pipe
    makeZip(env.SHARDLOOP_ADDON, { a: 'not a library' });
    const ran = shardloop(['doctor'], env);
    expect(ran.status).toBe(1);
    expect(ran.stdout).toMatch(/x the native addon cannot be loaded: .*\n +npm run setup/);
    const json = shardloop(['doctor', '--json'], env);
    expect(json.status).toBe(1);
    expect(JSON.parse(json.stdout)).toMatchObject({ ok: false, problems: [{ command: 'npm run setup' }] });
  });
});
