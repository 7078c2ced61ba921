// The libtorch versions that shardloop supports, and the wheels that stand beside them. One place to raise a version.
// Not here: where a libtorch is found (find.ts) or fetched from (fetch-pip.ts, fetch-archive.ts).

/** The version that CI tests with, that the typed ops are generated from, and that set-up fetches. */
export const PINNED = '2.14.1';

/** The oldest and the newest minor version of libtorch 2 that are supported. */
export const OLDEST = '2.11.0';
export const NEWEST = '2.15';

/** pip's wheels that hold nvcc (the compiler alone, about 100 MB) for a CUDA version such as `13.0`. */
export function nvccWheels(cuda: string): string[] {
  if (cuda === '13.0') {
    return [
      'nvidia-cuda-nvcc==13.0.88',
      'nvidia-cuda-crt==13.0.88',
      'nvidia-nvvm==13.0.88',
      'nvidia-cuda-cccl==13.0.85',
    ];
  }
  return ['nvidia-cuda-nvcc', 'nvidia-cuda-crt', 'nvidia-nvvm', 'nvidia-cuda-cccl'].map((name) => `${name}==${cuda}.*`);
}

/** The number parts of a version such as `2.14.1+cu130`; null when it does not start like one. */
export function parseVersion(version: string): [number, number, number] | null {
  const match = /^(\d+)\.(\d+)(?:\.(\d+))?/.exec(version);
  return match ? [Number(match[1]), Number(match[2]), Number(match[3] ?? 0)] : null;
}

/** Null when this version of libtorch is supported, else why not, as the end of a sentence. */
export function whyUnsupported(version: string): string | null {
  const parsed = parseVersion(version);
  if (!parsed) return `its version "${version}" cannot be read`;
  const [major, minor] = parsed;
  const oldest = parseVersion(OLDEST)?.[1] ?? 0;
  const newest = parseVersion(NEWEST)?.[1] ?? 0;
  if (major === 2 && minor >= oldest && minor <= newest) return null;
  return `version ${version} is outside the supported range 2.${oldest} to ${NEWEST}`;
}
