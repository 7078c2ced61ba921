// `--nproc N`: the command starts itself as N ranks. Under a launcher (torchrun, Slurm, mpirun, `shardloop launch`) it
// only joins, and the launcher's number of ranks counts.
import { readEnvironment } from '../dist/environment.js';
import { launch } from '../dist/launch.js';

/** What `--nproc` and `--max-restarts` say. */
interface RankFlags {
  readonly nproc: number;
  readonly maxRestarts: number;
}

/** Whether this process is to start ranks, instead of being one. A single rank needs somebody to start it again, too. */
export function mustStartRanks({ nproc, maxRestarts }: RankFlags): boolean {
  return (nproc > 1 || maxRestarts > 0) && readEnvironment().source === 'none';
}

/** Run this very command line as `nproc` ranks, and end as they end. Rank 0 prints as if it were alone. */
export async function startRanks({ nproc, maxRestarts }: RankFlags): Promise<void> {
  const [node, script, ...args] = process.argv as [string, string, ...string[]];
  const { exitCode } = await launch({
    command: [node, ...process.execArgv, script],
    args,
    nprocPerNode: nproc,
    maxRestarts,
    output: 'rank0',
  });
  process.exitCode = exitCode;
}
