// What the launcher says about this process: the variables of torchrun (and of Kubernetes' PyTorchJob), Open MPI and
// Slurm, read into one shape. Pure: it takes an environment and returns a value, or refuses with BAD_LAUNCH.
// Not here: connecting to anything (group.ts), starting processes (launch.ts).
import { ShardloopError } from '../core/errors.js';
import { firstHost } from './host-list.js';

/** Which launcher's variables were found; 'none' is a process that nobody launched. */
export type LaunchSource = 'torchrun' | 'openmpi' | 'slurm' | 'none';

/** One process among those that were launched together. */
export interface LaunchEnvironment {
  readonly source: LaunchSource;
  /** 0 to size - 1 over all hosts. */
  readonly rank: number;
  readonly size: number;
  /** The place on this host, 0 to localSize - 1: the CUDA device to take. */
  readonly localRank: number;
  readonly localSize: number;
  /** Where the store of the rendezvous is; empty when size is 1 and nobody said. */
  readonly masterAddr: string;
  readonly masterPort: number;
  /** The launcher serves the store already, so that every rank, 0 too, is its client. */
  readonly agentStore: boolean;
  /** How often the launcher has started all ranks again. */
  readonly restartCount: number;
}

type Variables = Readonly<Record<string, string | undefined>>;

const DEFAULT_PORT = 29500; // torch's own

/**
 * Reads the launch from `variables` (default: process.env). torchrun's variables come first, then Open MPI's, then
 * Slurm's; with none of them this is a world of one.
 * Throws BAD_LAUNCH when variables are missing, malformed, out of range, or contradict each other.
 */
export function readEnvironment(variables: Variables = process.env): LaunchEnvironment {
  const env = new Reader(variables);
  if (env.has('RANK') || env.has('WORLD_SIZE')) return checked(fromTorchrun(env), env);
  if (env.has('OMPI_COMM_WORLD_RANK') || env.has('OMPI_COMM_WORLD_SIZE')) return checked(fromOpenMpi(env), env);
  if ((env.has('SLURM_PROCID') || env.has('SLURM_NTASKS')) && !isBatchShell(env)) return checked(fromSlurm(env), env);
  if (env.has('LOCAL_RANK')) {
    env.refuse(
      'RANK and WORLD_SIZE beside LOCAL_RANK',
      'LOCAL_RANK alone',
      'set all three, or none for a single process',
    );
  }
  return {
    source: 'none',
    rank: 0,
    size: 1,
    localRank: 0,
    localSize: 1,
    masterAddr: '',
    masterPort: 0,
    agentStore: false,
    restartCount: 0,
  };
}

function fromTorchrun(env: Reader): LaunchEnvironment {
  const size = env.integer('WORLD_SIZE', 'RANK');
  const rank = env.integer('RANK', 'WORLD_SIZE');
  const launched = env.has('TORCHELASTIC_RUN_ID');
  if (!launched && env.has('SLURM_STEP_ID')) contradiction(env, 'SLURM_PROCID', 'SLURM_NTASKS', rank, size);
  if (!launched) contradiction(env, 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE', rank, size);
  if (size > 1 && !(env.has('MASTER_ADDR') && env.has('MASTER_PORT'))) {
    env.refuse(
      `MASTER_ADDR and MASTER_PORT for WORLD_SIZE=${size}`,
      `${env.show('MASTER_ADDR')}, ${env.show('MASTER_PORT')}`,
      'set both to where rank 0 runs and a free port there',
    );
  }
  return {
    source: 'torchrun',
    rank,
    size,
    // PyTorchJob starts one process a pod and gives no local variables.
    localRank: env.integerOr('LOCAL_RANK', 0),
    localSize: env.integerOr('LOCAL_WORLD_SIZE', env.has('LOCAL_RANK') ? size : 1),
    masterAddr: env.text('MASTER_ADDR') ?? '',
    masterPort: env.integerOr('MASTER_PORT', 0),
    agentStore: env.text('TORCHELASTIC_USE_AGENT_STORE')?.toLowerCase() === 'true',
    restartCount: env.integerOr('TORCHELASTIC_RESTART_COUNT', 0),
  };
}

function fromOpenMpi(env: Reader): LaunchEnvironment {
  const size = env.integer('OMPI_COMM_WORLD_SIZE', 'OMPI_COMM_WORLD_RANK');
  const rank = env.integer('OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_SIZE');
  const localSize = env.integerOr('OMPI_COMM_WORLD_LOCAL_SIZE', size);
  let masterAddr = env.text('MASTER_ADDR');
  if (masterAddr === undefined) {
    if (localSize < size) {
      env.refuse(
        `MASTER_ADDR, because ${size} ranks run on several hosts`,
        'none',
        'start with `mpirun -x MASTER_ADDR=HOST -x MASTER_PORT=PORT`, with the host of rank 0',
      );
    }
    masterAddr = '127.0.0.1';
  }
  return {
    source: 'openmpi',
    rank,
    size,
    localRank: env.integerOr('OMPI_COMM_WORLD_LOCAL_RANK', rank % localSize),
    localSize,
    masterAddr,
    masterPort: env.integerOr(
      'MASTER_PORT',
      jobPort(env.text('PMIX_NAMESPACE') ?? env.text('OMPI_MCA_ess_base_jobid')),
    ),
    agentStore: false,
    restartCount: 0,
  };
}

/** In the shell of `sbatch` Slurm's variables describe the job, not this process: srun has not been there yet. */
function isBatchShell(env: Reader): boolean {
  return env.text('ENVIRONMENT') === 'BATCH' && !env.has('SLURM_STEP_ID');
}

function fromSlurm(env: Reader): LaunchEnvironment {
  const size = env.has('SLURM_STEP_NUM_TASKS')
    ? env.integer('SLURM_STEP_NUM_TASKS')
    : env.integer('SLURM_NTASKS', 'SLURM_PROCID');
  const rank = env.integer('SLURM_PROCID', 'SLURM_NTASKS');
  const nodes = env.integerOr('SLURM_STEP_NUM_NODES', env.integerOr('SLURM_NNODES', 1));
  const hosts = env.text('SLURM_STEP_NODELIST') ?? env.text('SLURM_JOB_NODELIST') ?? env.text('SLURM_NODELIST');
  let masterAddr = env.text('MASTER_ADDR') ?? (nodes === 1 ? '127.0.0.1' : undefined);
  if (masterAddr === undefined) {
    if (hosts === undefined)
      env.refuse('SLURM_STEP_NODELIST or MASTER_ADDR', 'neither', 'set MASTER_ADDR to the host of rank 0');
    masterAddr = firstHost(hosts);
  }
  const job = env.has('SLURM_JOB_ID') ? `${env.text('SLURM_JOB_ID')}.${env.text('SLURM_STEP_ID') ?? ''}` : undefined;
  return {
    source: 'slurm',
    rank,
    size,
    localRank: env.integerOr('SLURM_LOCALID', nodes === 1 ? rank : 0),
    localSize: localTasks(env, nodes === 1 ? size : undefined),
    masterAddr,
    masterPort: env.integerOr('MASTER_PORT', jobPort(job)),
    agentStore: false,
    restartCount: env.integerOr('SLURM_RESTART_COUNT', 0),
  };
}

/** SLURM_STEP_TASKS_PER_NODE is a list such as '4(x2),3', by node; SLURM_NODEID says which is ours. */
function localTasks(env: Reader, all: number | undefined): number {
  if (all !== undefined) return all;
  const name = env.has('SLURM_STEP_TASKS_PER_NODE') ? 'SLURM_STEP_TASKS_PER_NODE' : 'SLURM_TASKS_PER_NODE';
  const counts = (env.text(name) ?? '').split(',').flatMap((part) => {
    const match = /^(\d+)(?:\(x(\d+)\))?$/.exec(part.trim());
    return match ? new Array<number>(Number(match[2] ?? 1)).fill(Number(match[1])) : [];
  });
  return counts[env.integerOr('SLURM_NODEID', 0)] ?? env.integerOr('SLURM_LOCALID', 0) + 1;
}

/** A port that all ranks of one job derive alike, away from the ephemeral ports; torch's default without a job's name. */
function jobPort(job: string | undefined): number {
  if (job === undefined) return DEFAULT_PORT;
  let hash = 0;
  for (const character of job) hash = (hash * 31 + character.charCodeAt(0)) >>> 0;
  return 15_000 + (hash % 15_000);
}

function contradiction(env: Reader, rankName: string, sizeName: string, rank: number, size: number): void {
  if (!env.has(rankName) || !env.has(sizeName)) return;
  const other = [env.integer(rankName), env.integer(sizeName)];
  if (other[0] === rank && other[1] === size) return;
  env.refuse(
    `RANK, WORLD_SIZE to agree with ${rankName}, ${sizeName}`,
    `RANK=${rank} WORLD_SIZE=${size} but ${rankName}=${other[0]} ${sizeName}=${other[1]}`,
    'unset RANK and WORLD_SIZE (a leftover of another shell?) or set them from the launcher for each process',
  );
}

function checked(launch: LaunchEnvironment, env: Reader): LaunchEnvironment {
  const { rank, size, localRank, localSize, masterPort } = launch;
  if (size < 1) env.refuse('a world size of 1 or more', String(size), 'say how many processes there are');
  if (rank >= size) env.refuse(`a rank below the world size ${size}`, String(rank), 'ranks count from 0 to size - 1');
  if (localSize < 1 || localRank >= localSize) {
    env.refuse(
      `a local rank below the local size ${localSize}`,
      String(localRank),
      'local ranks count from 0 on each host',
    );
  }
  if (localSize > size)
    env.refuse(`a local size of at most ${size}`, String(localSize), 'it counts the ranks of this host');
  if (size > 1 && (masterPort < 1 || masterPort > 65_535)) {
    env.refuse('MASTER_PORT between 1 and 65535', String(masterPort), 'choose a free port on the host of rank 0');
  }
  return launch;
}

/** Typed access to the variables; an empty value counts as unset. */
class Reader {
  constructor(private readonly variables: Variables) {}

  text(name: string): string | undefined {
    const value = this.variables[name]?.trim();
    return value === '' ? undefined : value;
  }

  has(name: string): boolean {
    return this.text(name) !== undefined;
  }

  show(name: string): string {
    const value = this.text(name);
    return value === undefined ? `no ${name}` : `${name}=${value}`;
  }

  /** `beside` is the variable whose presence makes this one necessary. */
  integer(name: string, beside?: string): number {
    const value = this.text(name);
    if (value === undefined) {
      const reason = beside === undefined ? '' : ` beside ${this.show(beside)}`;
      return this.refuse(`${name}${reason}`, `no ${name}`, 'a launcher sets both; unset both for a single process');
    }
    if (!/^\d{1,9}$/.test(value)) {
      return this.refuse(`${name} to be a whole number of 0 or more`, JSON.stringify(value), 'correct or unset it');
    }
    return Number(value);
  }

  integerOr(name: string, fallback: number): number {
    return this.has(name) ? this.integer(name) : fallback;
  }

  refuse(expected: string, received: string, remedy: string): never {
    const rank = this.variables.RANK ?? this.variables.OMPI_COMM_WORLD_RANK ?? this.variables.SLURM_PROCID ?? '?';
    const size = this.variables.WORLD_SIZE ?? this.variables.OMPI_COMM_WORLD_SIZE ?? this.variables.SLURM_NTASKS ?? '?';
    throw new ShardloopError(
      'BAD_LAUNCH',
      `[rank ${rank}/${size}] expected ${expected}, received ${received}; ${remedy}`,
    );
  }
}
