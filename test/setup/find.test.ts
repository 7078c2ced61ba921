// The order in which a libtorch is looked for, and what is taken of pip's wheels: with a Python and wheels that are
// stand-ins (fakes.ts). The real download is what `npm run setup` does on a bare machine.
import { execFileSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, describe, expect, it } from 'vitest';
import { neighbours, slimPath } from '../../lib/setup/fetch-pip.js';
import { type FindOptions, findLibtorch } from '../../lib/setup/find.js';
import { cudaRequirements, cudaVersionOf, platformTags, runtimeRequirements } from '../../lib/setup/python.js';
import { silentReport } from '../../lib/setup/report.js';
import { PINNED } from '../../lib/setup/versions.js';
import { emptyLibrary, fakeLibtorch, fakePython, makeZip, put, temporary, versionHeader } from './fakes.js';

const METADATA = `Metadata-Version: 2.1
Requires-Dist: filelock
Requires-Dist: cuda-toolkit[cublas,cudart,cufft,cupti]==13.0.3; platform_system == "Linux"
Requires-Dist: nvidia-nccl-cu13==2.30.7; platform_system == "Linux"
Requires-Dist: cuda-bindings<14,>=13.0.3; platform_system == "Linux"
Requires-Dist: nvidia-extra==1; extra == "more"
`;

describe("a wheel's METADATA", () => {
  it('names the wheels of CUDA', () => {
    expect(cudaRequirements(METADATA)).toEqual([
      'cuda-toolkit[cublas,cudart,cufft,cupti]==13.0.3',
      'nvidia-nccl-cu13==2.30.7',
    ]);
    expect(cudaVersionOf(METADATA)).toBe('13.0');
    expect(cudaVersionOf('Requires-Dist: filelock')).toBeNull();
  });

  it('is narrowed to the two that a CPU host needs', () => {
    expect(runtimeRequirements(METADATA)).toEqual(['cuda-toolkit[cudart,cupti]==13.0.3']);
    expect(neighbours(METADATA, 'slim')).toEqual(['cuda-toolkit[cudart,cupti]==13.0.3']);
    expect(runtimeRequirements('Requires-Dist: nvidia-cuda-runtime-cu12==12.8.90; platform_system == "Linux"')).toEqual(
      ['nvidia-cuda-runtime-cu12==12.8.90'],
    );
  });

  it('is widened by nvcc for a host with a GPU, and for compiling alone narrowed to headers', () => {
    expect(neighbours(METADATA, 'full')).toContain('nvidia-nccl-cu13==2.30.7');
    expect(neighbours(METADATA, 'full')).toContain('nvidia-cuda-nvcc==13.0.88');
    expect(neighbours(METADATA, 'compile').join()).not.toContain('cufft');
  });

  it('is unpacked without what a CPU host cannot use', () => {
    expect(slimPath('torch/lib/libtorch_cpu.so')).toBe('torch/lib/libtorch_cpu.so');
    expect(slimPath('torch/include/ATen/ATen.h')).not.toBeNull();
    for (const name of [
      'lib/libtorch_cuda.so',
      'lib/libtorch_python.so',
      'lib/libshm.so',
      'nn/modules.py',
      'lib/libc10_cuda.so',
    ]) {
      expect(slimPath(`torch/${name}`)).toBeNull();
    }
  });

  it('is asked for this platform, whatever Python runs pip', () => {
    expect(platformTags('linux', 'x64')).toContain('manylinux_2_28_x86_64');
    expect(platformTags('linux', 'arm64')).toContain('manylinux2014_aarch64');
    expect(platformTags('darwin', 'arm64')).toEqual([]);
  });
});

describe('the search for a libtorch', () => {
  const folders: string[] = [];
  const fresh = () => {
    const folder = temporary();
    folders.push(folder);
    return folder;
  };
  afterEach(() => {
    for (const folder of folders.splice(0)) rmSync(folder, { recursive: true, force: true });
  });

  /** A host: an empty cache, a Python without torch and without pip, unless told otherwise. */
  function host(python: Parameters<typeof fakePython>[1] = { pip: false }) {
    const folder = fresh();
    const lines: string[] = [];
    const env: NodeJS.ProcessEnv = { PATH: process.env.PATH, SHARDLOOP_PYTHON: fakePython(folder, python) };
    const cache = join(folder, 'cache');
    const report = { ...silentReport, line: (text: string) => void lines.push(text) };
    const find = (options: FindOptions = {}) => findLibtorch({ cuda: false, ...options }, { cache, report, env });
    return { folder, cache, env, lines, find };
  }

  /** Wheels as pip would bring them. */
  function wheels(folder: string): string {
    const library = join(folder, 'empty.so');
    emptyLibrary(library);
    const program = `
import sys, zipfile
out, lib, version, header, metadata = sys.argv[1:]
with zipfile.ZipFile(f'{out}/torch-{version}-cp312.whl', 'w') as z:
    z.writestr('torch/include/ATen/ATen.h', '')
    z.writestr('torch/include/torch/headeronly/version.h', header)
    for name in ['torch_cpu', 'c10', 'torch_cuda', 'torch_python']: z.write(lib, f'torch/lib/lib{name}.so')
    z.writestr('torch/version.py', "cuda: Optional[str] = '13.0'")
    z.writestr('torch/nn/functional.py', 'pass')
    z.writestr(f'torch-{version}.dist-info/METADATA', metadata)
`;
    const out = join(folder, 'wheels');
    mkdirSync(out);
    execFileSync('python3', ['-c', program, out, library, PINNED, versionHeader(PINNED), METADATA]);
    makeZip(join(out, 'cuda_toolkit-13.whl'), { 'cuda/none': '' });
    makeZip(join(out, 'nvidia_nccl_cu13-2.whl'), { 'nvidia/nccl/lib/libnccl.so.2': 'nccl' });
    for (const name of ['nvcc', 'crt', 'cccl'])
      makeZip(join(out, `nvidia_cuda_${name}-13.whl`), { [`nvidia/cu13/bin/${name}`]: '#!' });
    makeZip(join(out, 'nvidia_nvvm-13.whl'), { 'nvidia/cu13/nvvm/x': '' });
    return out;
  }

  it('takes the folder that is named, by option before environment, and nothing in its place', async () => {
    const { folder, env, find, cache } = host();
    fakeLibtorch(join(cache, 'libtorch', 'x', 'torch'), PINNED);
    const one = fakeLibtorch(join(folder, 'one'), '2.11.0');
    const two = fakeLibtorch(join(folder, 'two'), '2.15.0');
    env.SHARDLOOP_LIBTORCH = two;
    expect(await find({ libtorch: one })).toMatchObject({
      dir: one,
      version: '2.11.0',
      source: 'the option --libtorch',
    });
    expect(await find()).toMatchObject({ dir: two, version: '2.15.0', source: 'SHARDLOOP_LIBTORCH', cuda: null });
    env.SHARDLOOP_LIBTORCH = join(folder, 'none');
    await expect(find()).rejects.toThrow(/SHARDLOOP_LIBTORCH = .*none\n.*there is no such folder/);
    await expect(find({ libtorch: folder })).rejects.toThrow(/holds no include\/ATen\/ATen.h/);
    fakeLibtorch(join(folder, 'old'), '2.10.0');
    await expect(find({ libtorch: join(folder, 'old') })).rejects.toThrow(/2.10.0 is outside the supported range/);
    fakeLibtorch(join(folder, 'bad'), '2.14.0', { broken: true });
    await expect(find({ libtorch: join(folder, 'bad') })).rejects.toThrow(/cannot be loaded: /);
    await expect(find({ libtorch: one, cuda: true })).rejects.toThrow(/it is a CPU build, and CUDA is wanted/);
  });

  it('prefers the cache to an installed Python torch, and takes only the version that is wanted', async () => {
    const torch = fakeLibtorch(join(fresh(), 'torch'), '2.13.0');
    const { cache, find } = host({ torch, pip: false });
    expect(await find()).toMatchObject({ dir: torch, source: expect.stringContaining('Python (') });
    const other = fakeLibtorch(join(cache, 'libtorch', '2.11.0-slim', 'torch'), '2.11.0');
    expect((await find()).dir).toBe(torch);
    expect((await find({ version: '2.11.0' })).dir).toBe(other);
    const pinned = fakeLibtorch(join(cache, 'libtorch', `${PINNED}-slim`, 'torch'), PINNED);
    expect(await find()).toMatchObject({ dir: pinned, source: 'the cache' });
    await expect(find({ version: '2.12.0' })).rejects.toThrow(/is version 2.13.0; 2.12.0 was asked for/);
  });

  it('takes the Python environment of the oracle only when it is complete', async () => {
    const { cache, find } = host();
    const torch = fakeLibtorch(join(cache, 'python', 'lib', 'python3.12', 'site-packages', 'torch'), PINNED, {
      cuda: '13.0',
    });
    await expect(find({ fetch: false })).rejects.toThrow(/it holds no libtorch/);
    put(join(cache, 'python', 'shardloop-stamp'), 'x');
    expect(await find({ fetch: false })).toMatchObject({ dir: torch, cuda: '13.0' });
  });

  it('with CUDA wanted passes over CPU builds', async () => {
    const torch = fakeLibtorch(join(fresh(), 'torch'), PINNED);
    const { cache, find } = host({ torch, pip: false });
    fakeLibtorch(join(cache, 'libtorch', `${PINNED}-slim`, 'torch'), PINNED);
    await expect(find({ cuda: true, fetch: false })).rejects.toThrow(
      /CPU build[\s\S]*an installed Python torch\n.*CPU build/,
    );
    const full = fakeLibtorch(join(cache, 'libtorch', `${PINNED}-full`, 'torch'), PINNED, { cuda: '13.0' });
    expect((await find({ cuda: true })).dir).toBe(full);
  });

  it('has pip bring the wheels, and unpacks of them what a CPU host needs', async () => {
    const { folder, find, cache, lines } = host({ wheels: wheels(fresh()) });
    const found = await find();
    expect(found).toMatchObject({
      version: PINNED,
      cuda: null,
      dir: join(cache, 'libtorch', `${PINNED}-slim`, 'torch'),
    });
    expect(readdirSync(join(found.dir, 'lib')).sort()).toEqual(['libc10.so', 'libtorch_cpu.so']);
    expect(existsSync(join(found.dir, 'nn'))).toBe(false);
    expect(existsSync(join(cache, 'downloads', `torch-${PINNED}`))).toBe(false);
    expect(lines.join('\n')).toMatch(/no CUDA driver: fetching only what a CPU host needs/);
    const log = readFileSync(join(folder, 'downloads.log'), 'utf8');
    expect(log).toMatch(/--no-deps .*torch==/);
    expect(log).toContain('cuda-toolkit[cudart,cupti]==13.0.3');
    expect(log).not.toContain('nccl');
    expect((await find()).source).toBe('the cache');
  });

  it('has pip bring all of CUDA where CUDA is wanted', async () => {
    const { find } = host({ wheels: wheels(fresh()) });
    const found = await find({ cuda: true });
    expect(found.cuda).toBe('13.0');
    expect(existsSync(join(found.dir, '..', 'nvidia', 'nccl', 'lib', 'libnccl.so.2'))).toBe(true);
    expect(existsSync(join(found.dir, '..', 'nvidia', 'cu13', 'bin', 'nvcc'))).toBe(true);
  });

  it('goes on where a cut-off run stopped, and throws a damaged download away', async () => {
    const source = wheels(fresh());
    const { folder, find, cache } = host({ wheels: source });
    const downloads = join(cache, 'downloads', `torch-${PINNED}`);
    const name = `torch-${PINNED}-cp312.whl`;
    mkdirSync(downloads, { recursive: true });
    writeFileSync(join(downloads, name), readFileSync(join(source, name)));
    put(join(cache, 'libtorch', `${PINNED}-slim.partial`, 'torch', 'half'), 'of an earlier run');
    const found = await find();
    expect(readFileSync(join(folder, 'downloads.log'), 'utf8')).not.toContain(`torch==${PINNED}`);
    expect(existsSync(join(found.dir, 'half'))).toBe(false);

    rmSync(join(cache, 'libtorch'), { recursive: true });
    put(join(downloads, name), 'half a wheel');
    await expect(find()).rejects.toThrow(/not a complete zip file/);
    expect((await find()).version).toBe(PINNED);
  });

  it('tells on one page what was tried when nothing is there', async () => {
    const { find, env } = host();
    const page = await find().then(
      () => '',
      (error: Error) => error.message,
    );
    expect(page).toMatch(/^No usable libtorch was found\.\n\nWhat was tried:/);
    expect(page).toMatch(/the cache .*\n.*it holds no libtorch 2.14.1/);
    expect(page).toMatch(/an installed Python torch\n.*has no torch/);
    expect(page).toMatch(/pip download torch==2.14.1\n.*has no pip \(Debian: apt-get install python3-pip\)/);
    expect(page).toMatch(/the official libtorch archive\n.*checksum is not pinned/);
    expect(page).toMatch(/What to do:[\s\S]*SHARDLOOP_LIBTORCH=DIR/);
    env.SHARDLOOP_PYTHON = '/nonexistent/python3';
    await expect(find()).rejects.toThrow(/there is no python3 on PATH/);
    await expect(find({ version: '2.9.0' })).rejects.toThrow(/libtorch 2.9.0 cannot be set up/);
    await expect(find({ version: 'latest' })).rejects.toThrow(/not a version such as 2.14.1/);
  });
});
