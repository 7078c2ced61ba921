// Platforms, versions and paths: the small tables of set-up.
import { describe, expect, it } from 'vitest';
import { cacheRoot, isWritable, pointerFile } from '../../lib/setup/paths.js';
import { libraryName, platform } from '../../lib/setup/platform.js';
import { nvccWheels, PINNED, parseVersion, whyUnsupported } from '../../lib/setup/versions.js';

describe('platform', () => {
  it('is tested on Linux x86-64, said to be untested on two more', () => {
    expect(platform('linux', 'x64', '20.19.0')).toEqual({ name: 'Linux x86-64', tested: true, note: null });
    expect(platform('linux', 'arm64', '22.0.0').note).toMatch(/Linux arm64 .* untested/);
    expect(platform('darwin', 'arm64', '26.1.0').note).toMatch(/macOS arm64 .* untested/);
  });

  it('refuses the rest with a sentence', () => {
    expect(() => platform('win32', 'x64', '22.0.0')).toThrow(/runs on Linux x86-64.*this is win32 x64/);
    expect(() => platform('linux', 'ia32', '22.0.0')).toThrow(/this is linux ia32/);
    expect(() => platform('linux', 'x64', '20.18.3')).toThrow(/needs Node >= 20.19; this is Node 20.18.3/);
    expect(() => platform('linux', 'x64', '18.20.0')).toThrow(expect.objectContaining({ code: 'UNSUPPORTED' }));
  });

  it('knows how libraries are called', () => {
    expect(libraryName('c10', 'linux')).toBe('libc10.so');
    expect(libraryName('c10', 'darwin')).toBe('libc10.dylib');
  });
});

describe('versions', () => {
  it('supports 2.11 to 2.15', () => {
    for (const version of ['2.11.0', '2.12.3', PINNED, '2.14.1+cu130', '2.15.0'])
      expect(whyUnsupported(version)).toBeNull();
    for (const version of ['2.10.0', '2.16.0', '1.13.1', '3.0.0']) expect(whyUnsupported(version)).toMatch(/outside/);
    expect(whyUnsupported('nightly')).toMatch(/cannot be read/);
    expect(parseVersion('2.15')).toEqual([2, 15, 0]);
  });

  it('names the wheels of nvcc by CUDA version', () => {
    expect(nvccWheels('13.0')).toContain('nvidia-cuda-nvcc==13.0.88');
    expect(nvccWheels('13.2')).toContain('nvidia-nvvm==13.2.*');
  });
});

describe('paths', () => {
  it('takes the cache from SHARDLOOP_CACHE, then XDG_CACHE_HOME, then the home folder', () => {
    expect(cacheRoot({ SHARDLOOP_CACHE: '/a', XDG_CACHE_HOME: '/b' })).toBe('/a');
    expect(cacheRoot({ XDG_CACHE_HOME: '/b' })).toBe('/b/shardloop');
    expect(cacheRoot({ XDG_CACHE_HOME: 'relative' })).toMatch(/\.cache\/shardloop$/);
    expect(cacheRoot({})).toMatch(/\.cache\/shardloop$/);
  });

  it('gives each package a pointer of its own', () => {
    expect(pointerFile('/x/a', '/c')).not.toBe(pointerFile('/x/b', '/c'));
    expect(pointerFile('/x/a', '/c')).toMatch(/^\/c\/packages\/[0-9a-f]{12}\.json$/);
  });

  it('asks the nearest folder that exists whether it can be written', () => {
    expect(isWritable('/tmp/not/there/yet')).toBe(true);
    expect(isWritable('/proc/not/there')).toBe(false);
  });
});
