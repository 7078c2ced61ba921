// What a collective costs from TypeScript, on two ranks over Gloo and over shared memory, against C++ on the same backends,
// Python's torch.distributed and Open MPI. The goals: over Gloo 1.1 of C++'s time from 64 kB up, and 1.3 below; C++ over
// shared memory 1.5 of Open MPI's.
// SHARDLOOP_BENCH_ROUNDS sets how many rounds are taken (9, and thrice as many up to 16 MB); more of them quiet a noisy machine.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readFileSync, rmSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import {
  type Contender,
  compare,
  freePort,
  type Goals,
  medianOf,
  oraclePython,
  print,
  type Report,
  type Timing,
} from './harness.js';
import { type Ranks, startRanks } from './rank-pair.js';

const OPERATIONS = ['all_reduce', 'all_gather', 'reduce_scatter'];
const SIZES: readonly [string, number][] = [
  ['1 kB', 1024],
  ['64 kB', 64 << 10],
  ['1 MB', 1 << 20],
  ['16 MB', 16 << 20],
  ['64 MB', 64 << 20],
];
/**
 * A round takes each contender about as long as another, whatever an operation takes: as long again it runs unmeasured
 * before, since ranks that have just been woken may share a processor for tens of milliseconds while the other is idle.
 */
const ROUND_MS = 30;
const BACKENDS = ['gloo', 'shm'] as const;
const SIZE = 2;
const ROUNDS = Number(process.env.SHARDLOOP_BENCH_ROUNDS ?? 9);

const root = fileURLToPath(new URL('..', import.meta.url));
const here = (name: string) => join(root, 'bench', name);

/** Runs the benchmark and prints it. */
export async function collectives(json: boolean): Promise<Report> {
  const folder = mkdtempSync(join(tmpdir(), 'shardloop-bench-'));
  const ranks = (line: (rank: string) => string[]) => Array.from({ length: SIZE }, (_, rank) => line(String(rank)));
  const size = String(SIZE);
  const started: Ranks[] = [];
  try {
    const ports = { gloo: String(await freePort()), shm: String(await freePort()) };
    const ours = [process.execPath, '--import', 'tsx', here('collectives-rank.ts')];
    const program = compileC10d();
    for (const backend of BACKENDS) {
      started.push(
        startRanks(
          `shardloop ${backend}`,
          ranks((rank) => [...ours, rank, size, ports[backend], backend]),
        ),
        startRanks(
          `C++ ${backend}`,
          ranks((rank) => [program, rank, size, join(folder, backend), backend]),
        ),
      );
    }
    started.push(
      startRanks(
        'Python',
        ranks((rank) => [oraclePython(), '-u', here('collectives.py'), rank, size, join(folder, 'python')]),
      ),
    );
    const mpi = compileMpi(folder);
    if (mpi !== null) started.push(startRanks('MPI', [mpi]));
    return report(await measure(started), mpi !== null, json);
  } finally {
    for (const contender of started) contender.close();
    rmSync(folder, { recursive: true, force: true });
  }
}

async function measure(started: readonly Ranks[]): Promise<Timing[]> {
  const timings: Timing[] = [];
  // Ranks that have only started may both lie on the processor on which they met, and stay there as long as operations are
  // short; large ones part them.
  for (const contender of started) await contender.run(`all_reduce ${16 << 20} 10`);
  for (const operation of OPERATIONS) {
    for (const [label, bytes] of SIZES) {
      console.error(`${operation} ${label}`);
      const contenders: Contender[] = [];
      for (const contender of started) {
        const command = `${operation} ${bytes}`;
        const first = await contender.run(`${command} 3`);
        const rough = await contender.run(`${command} ${Math.ceil((ROUND_MS * 1e6) / 5 / first)}`);
        const iterations = Math.max(2, Math.round((ROUND_MS * 1e6) / rough));
        contenders.push({
          name: `${operation} ${label} ${contender.name}`,
          run: () => contender.run(`${command} ${iterations}`),
        });
      }
      // Of small operations over Gloo, rounds differ by twice and more, by where its threads have come to lie.
      const rounds = bytes > 16 << 20 ? ROUNDS : 3 * ROUNDS;
      timings.push(...(await compare(contenders, { rounds, iterations: 1, warmups: 1 })));
    }
  }
  return timings;
}

function report(timings: Timing[], withMpi: boolean, json: boolean): Report {
  const ratios: Record<string, number> = {};
  const goals: Goals = {};
  for (const operation of OPERATIONS) {
    for (const [label, bytes] of SIZES) {
      const time = (name: string) => medianOf(timings, `${operation} ${label} ${name}`);
      const ratio = (ours: string, other: string, atMost?: number) => {
        const name = `${operation} ${label}: ${ours} / ${other}`;
        ratios[name] = time(ours) / time(other);
        if (atMost !== undefined) goals[name] = { atMost };
      };
      ratio('shardloop gloo', 'C++ gloo', bytes < 64 << 10 ? 1.3 : 1.1);
      ratio('shardloop gloo', 'Python', 1);
      ratio('shardloop shm', 'C++ shm');
      ratio('shardloop shm', 'Python', 1);
      if (withMpi) {
        ratio('C++ shm', 'MPI', 1.5);
        ratio('shardloop shm', 'MPI');
      }
    }
  }
  return print('collectives', timings, ratios, json, goals);
}

/** The C++ program and our backends against the addon's own libtorch; compiled when a source is newer. Takes a minute. */
function compileC10d(): string {
  const backends = ['gloo_backend.cc', 'shm_backend.cc', 'shared_steps.cc', 'shared_segment.cc', 'waiters.cc'];
  const native = join(root, 'native');
  const sources = [here('collectives_c10d.cc'), ...backends.map((name) => join(native, name))];
  const headers = ['process_group.h', 'works.h', 'gloo_backend.h', 'shared_segment.h', 'waiters.h'].map((name) =>
    join(native, name),
  );
  const record = join(root, 'build/Release/shardloop.json');
  const { libtorch, compiler } = JSON.parse(readFileSync(record, 'utf8')) as {
    libtorch: { dir: string };
    compiler: string;
  };
  const output = join(root, 'build/bench/collectives_c10d');
  const newest = Math.max(...[...sources, ...headers, record].map((path) => statSync(path).mtimeMs));
  if (existsSync(output) && statSync(output).mtimeMs > newest) return output;
  mkdirSync(join(root, 'build/bench'), { recursive: true });
  console.error('compiling bench/collectives_c10d.cc');
  const { dir } = libtorch;
  const folders = [join(native, 'gloo_declarations'), `${dir}/include`, `${dir}/include/torch/csrc/api/include`];
  const includes = [`-I${native}`, ...folders.flatMap((path) => ['-isystem', path])];
  const link = [`-L${dir}/lib`, '-ltorch_cpu', '-lc10', `-Wl,-rpath,${dir}/lib`];
  const flags = ['-std=c++20', '-O3', '-fno-trapping-math', '-fwrapv', '-DNDEBUG', '-DUSE_C10D_GLOO', ...includes];
  execFileSync(compiler.split(' ')[0]!, [...flags, ...sources, '-o', output, ...link], { stdio: ['ignore', 2, 2] });
  return output;
}

/** mpirun's command line, or null where Open MPI is not installed. */
function compileMpi(folder: string): string[] | null {
  if (spawnSync('mpicc', ['--version']).status !== 0) {
    console.error('collectives: no Open MPI here (mpicc); its column is left out. Debian: openmpi-bin libopenmpi-dev');
    return null;
  }
  const output = join(folder, 'collectives_mpi');
  execFileSync('mpicc', ['-O2', here('collectives_mpi.c'), '-o', output], { stdio: ['ignore', 2, 2] });
  const asRoot = process.getuid?.() === 0 ? ['--allow-run-as-root'] : [];
  return ['mpirun', ...asRoot, '--oversubscribe', '--bind-to', 'none', '-np', String(SIZE), output];
}
