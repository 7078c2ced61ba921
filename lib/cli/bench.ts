// `shardloop bench`: how fast the collectives are, in nccl-tests' words. Measuring, tables and files are lib/bench's; here
// are the flags, the ranks, and who prints.
import { Command, Option } from 'commander';
import type { BenchPlan, BenchResult } from '../bench/index.js';
import { ShardloopError } from '../core/errors.js';
import { EXIT, fail } from './exit.js';
import { number, whole } from './generate.js';
import { mustStartRanks, startRanks } from './ranks.js';

interface BenchFlags {
  nproc?: number;
  backend?: 'gloo' | 'shm' | 'nccl';
  minbytes: string;
  maxbytes: string;
  stepfactor: number;
  stepbytes?: string;
  iters: number;
  warmup_iters: number;
  check: number;
  op: string;
  datatype: string;
  root: string;
  json?: string;
  csv?: string;
  plot?: string;
  out?: string;
  compare?: string[];
}

export const benchCommand = () =>
  new Command('bench')
    .description('Measure collectives: times, bandwidths and correctness for each size, as nccl-tests does.')
    .argument(
      '[operation]',
      'all_reduce, all_gather, reduce_scatter, broadcast, reduce, alltoall, sendrecv, gather, scatter, or all',
    )
    .option('--nproc <n>', 'ranks on this host (default: 2; with nccl one for each device)', whole(1))
    .addOption(
      new Option('--backend <name>', 'what carries the data (default: shm on one host, else gloo)').choices([
        ...['gloo', 'shm', 'nccl'],
      ]),
    )
    .option('-b, --minbytes <size>', 'smallest size; K, M and G are powers of 1024', '8')
    .option('-e, --maxbytes <size>', 'largest size', '64M')
    .option('-f, --stepfactor <x>', 'from one size to the next', number(0), 2)
    .option('-i, --stepbytes <size>', 'equal steps instead of a factor')
    .option('-n, --iters <n>', 'timed operations at each size', whole(1), 20)
    .option('-w, --warmup_iters <n>', 'operations before them that do not count', whole(0), 5)
    .option('-c, --check <n>', 'how often the data is checked at each size; 0: never', whole(0), 1)
    .option('-o, --op <name>', 'sum, prod, min, max, avg or all', 'sum')
    .option('-d, --datatype <name>', 'float, double, half, bfloat16, int8, uint8, int32, int64 or all', 'float')
    .option('-r, --root <rank>', 'root of broadcast, reduce, gather and scatter, or all', '0')
    .option('--json <file>', 'write all numbers, with p50, p99 and deviation of single iterations')
    .option('--csv <file>', 'write the rows as CSV')
    .option('--plot <file.svg>', 'draw bus bandwidth against size')
    .option('--out <dir>', 'with `bench all`: folder for report.md, its charts and report.json (default: out/bench)')
    .option('--compare <files...>', 'run nothing; compare two --json files A and B, exit code 1 where B is slower')
    .addHelpText(
      'after',
      '\nUnder a launcher (torchrun, srun, mpirun, `shardloop launch`) it joins instead of starting ranks.\n' +
        'Exit codes: 0 done, 1 wrong data, a failed collective, or with --compare a B that is slower than A beyond the\n' +
        'noise anywhere; 2 usage.',
    )
    .action(async (operation: string | undefined, flags: BenchFlags) => {
      try {
        if (flags.compare !== undefined) await compare(flags.compare, operation);
        else await bench(operation, flags);
      } catch (error) {
        fail(error);
      }
    });

async function bench(operation: string | undefined, flags: BenchFlags): Promise<void> {
  const { OPERATIONS, planBench, rootsOf } = await import('../bench/index.js');
  if (operation === undefined) throw usage('an operation or --compare A.json B.json', 'neither', 'name one, or all');
  const all = operation === 'all';
  if (all && flags.plot !== undefined) throw usage('--out with all', '--plot', 'the folder gets a chart for each');
  if (!all && flags.out !== undefined) throw usage('all with --out', operation, 'use --json, --csv and --plot');
  const options = {
    ...{ minBytes: flags.minbytes, maxBytes: flags.maxbytes, stepFactor: flags.stepfactor, stepBytes: flags.stepbytes },
    ...{ iters: flags.iters, warmupIters: flags.warmup_iters, check: flags.check },
    ...{ op: flags.op, datatype: flags.datatype, root: flags.root },
  };
  const plans = (all ? Object.keys(OPERATIONS) : [operation]).map((name) => planBench({ ...options, operation: name }));
  const nproc = flags.nproc ?? (flags.backend === 'nccl' ? await devices() : 2);
  const ranks = { nproc, maxRestarts: 0 };
  if (mustStartRanks(ranks)) {
    for (const plan of plans) rootsOf(plan, nproc);
    return await startRanks(ranks);
  }
  await measure(plans, flags);
}

/** How many CUDA devices there are; NO_CUDA when there is none. */
async function devices(): Promise<number> {
  const { cudaDeviceCount } = await import('../core/index.js');
  const count = cudaDeviceCount();
  if (count > 0) return count;
  throw new ShardloopError(
    'NO_CUDA',
    'bench: expected a CUDA device for --backend nccl, found none; see `npx shardloop doctor`, or leave --backend out',
  );
}

async function measure(plans: readonly BenchPlan[], flags: BenchFlags): Promise<void> {
  const { init, readEnvironment } = await import('../dist/index.js');
  const { runBench, tableFoot, tableHead, tableRow, writeFiles, writeReport } = await import('../bench/index.js');
  const group = await init({ backend: flags.backend });
  const device = flags.backend === 'nccl' ? `cuda:${readEnvironment().localRank}` : 'cpu';
  const print = (text: string) => {
    if (group.rank === 0) process.stdout.write(`${text}\n`);
  };
  const runs: { plan: BenchPlan; result: BenchResult }[] = [];
  for (const plan of plans) {
    print(tableHead(plan, { ranks: group.size, backend: group.backend }));
    const result = await runBench(group, device, plan, (row) => print(tableRow(row)));
    print(`${tableFoot(result)}\n`);
    runs.push({ plan, result });
  }
  await group.destroy();
  if (group.rank !== 0) return;
  const results = runs.map(({ result }) => result);
  await writeFiles(results, flags);
  if (plans.length > 1) await writeReport(flags.out ?? 'out/bench', runs);
  const wrong = results.filter(({ outOfBounds }) => outOfBounds > 0).map((r) => `${r.operation} ${r.outOfBounds}`);
  if (wrong.length > 0) {
    throw new ShardloopError('COLLECTIVE_FAILED', `bench: expected no wrong elements, received ${wrong.join(', ')}`);
  }
}

async function compare(files: readonly string[], operation: string | undefined): Promise<void> {
  const { compareResults, comparisonText, readResults } = await import('../bench/index.js');
  const [a, b] = files;
  if (operation !== undefined || a === undefined || b === undefined || files.length > 2) {
    const received = [operation, ...files].filter((word) => word !== undefined).join(' ');
    throw usage('--compare A.json B.json and nothing to run', received, 'give exactly two files');
  }
  const comparisons = compareResults(readResults(a), readResults(b));
  process.stdout.write(`${comparisonText(comparisons, [a, b])}\n`);
  if (comparisons.some(({ verdict }) => verdict === 'slower')) process.exitCode = EXIT.failed;
}

function usage(expected: string, received: string, remedy: string): ShardloopError {
  return new ShardloopError('BAD_ARGUMENT', `bench: expected ${expected}, received ${received}; ${remedy}`);
}
