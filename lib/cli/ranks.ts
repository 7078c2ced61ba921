// `--nproc N`: the command starts itself as N ranks. Under a launcher (torchrun, Slurm, mpirun, `shardloop launch`) it
// only joins, and the launcher's number of ranks counts.
import { readEnvironment } from '../dist/environment.js';
import { launch } from '../dist/launch.js';

/** Whether this process is to start ranks, instead of being one. */
export function mustStartRanks(nproc: number): boolean {
  return nproc > 1 && readEnvironment().source === 'none';
}

/** Run this very command line as `nproc` ranks, and end as they end. Rank 0 prints as if it were alone. */
export async function startRanks(nproc: number): Promise<void> {
  const [node, script, ...args] = process.argv as [string, string, ...string[]];
  const { exitCode } = await launch({
    command: [node, ...process.execArgv, script],
    args,
    nprocPerNode: nproc,
    output: 'rank0',
  });
  process.exitCode = exitCode;
}
