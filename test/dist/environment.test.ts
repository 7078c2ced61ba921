// What each launcher's variables mean, and the refusal of those that are missing, malformed or contradict each other.
import { describe, expect, it } from 'vitest';
import { readEnvironment } from '../../lib/dist/environment.js';
import { firstHost } from '../../lib/dist/host-list.js';

const refusal = (variables: Record<string, string>): unknown => {
  try {
    return readEnvironment(variables);
  } catch (error) {
    return error;
  }
};

const torchrun = {
  RANK: '3',
  WORLD_SIZE: '4',
  LOCAL_RANK: '1',
  LOCAL_WORLD_SIZE: '2',
  MASTER_ADDR: 'host-a',
  MASTER_PORT: '29511',
  TORCHELASTIC_RESTART_COUNT: '2',
  TORCHELASTIC_RUN_ID: 'none',
  TORCHELASTIC_USE_AGENT_STORE: 'True',
};

describe('readEnvironment', () => {
  it('is a world of one without a launcher', () => {
    expect(readEnvironment({})).toMatchObject({ source: 'none', rank: 0, size: 1, localRank: 0, localSize: 1 });
    expect(readEnvironment({ RANK: '', WORLD_SIZE: ' ' })).toMatchObject({ source: 'none', size: 1 });
  });

  it('reads torchrun', () => {
    expect(readEnvironment(torchrun)).toEqual({
      source: 'torchrun',
      rank: 3,
      size: 4,
      localRank: 1,
      localSize: 2,
      masterAddr: 'host-a',
      masterPort: 29511,
      agentStore: true,
      restartCount: 2,
    });
    expect(readEnvironment({ ...torchrun, TORCHELASTIC_USE_AGENT_STORE: 'False' }).agentStore).toBe(false);
  });

  it('reads a PyTorchJob pod, which has no local variables', () => {
    const pod = { RANK: '1', WORLD_SIZE: '2', MASTER_ADDR: 'job-master-0', MASTER_PORT: '23456' };
    expect(readEnvironment(pod)).toMatchObject({ rank: 1, size: 2, localRank: 0, localSize: 1, agentStore: false });
  });

  it('reads Open MPI, on one host without a master', () => {
    const mpi = {
      OMPI_COMM_WORLD_RANK: '1',
      OMPI_COMM_WORLD_SIZE: '2',
      OMPI_COMM_WORLD_LOCAL_RANK: '1',
      OMPI_COMM_WORLD_LOCAL_SIZE: '2',
      PMIX_NAMESPACE: '3141',
    };
    const first = readEnvironment(mpi);
    expect(first).toMatchObject({
      source: 'openmpi',
      rank: 1,
      size: 2,
      localRank: 1,
      localSize: 2,
      masterAddr: '127.0.0.1',
    });
    expect(readEnvironment({ ...mpi, OMPI_COMM_WORLD_RANK: '0' }).masterPort).toBe(first.masterPort);
    expect(readEnvironment({ ...mpi, PMIX_NAMESPACE: '3142' }).masterPort).not.toBe(first.masterPort);
    expect(refusal({ ...mpi, OMPI_COMM_WORLD_LOCAL_SIZE: '1', OMPI_COMM_WORLD_LOCAL_RANK: '0' })).toMatchObject({
      code: 'BAD_LAUNCH',
      message: expect.stringContaining('mpirun -x MASTER_ADDR'),
    });
  });

  it('reads Slurm, with the first host of its list as the master', () => {
    const one = { SLURM_PROCID: '1', SLURM_NTASKS: '2', SLURM_LOCALID: '1' };
    expect(readEnvironment(one)).toMatchObject({
      source: 'slurm',
      rank: 1,
      size: 2,
      localRank: 1,
      masterAddr: '127.0.0.1',
    });
    const many = {
      SLURM_PROCID: '5',
      SLURM_NTASKS: '7',
      SLURM_LOCALID: '1',
      SLURM_NODEID: '1',
      SLURM_NNODES: '2',
      SLURM_STEP_ID: '0',
      SLURM_JOB_ID: '4711',
      SLURM_STEP_NODELIST: 'gpu[07-08]',
      SLURM_STEP_TASKS_PER_NODE: '4,3',
    };
    expect(readEnvironment(many)).toMatchObject({ rank: 5, size: 7, localSize: 3, masterAddr: 'gpu07' });
    expect(readEnvironment({ ...many, MASTER_ADDR: 'x', MASTER_PORT: '99' })).toMatchObject({
      masterAddr: 'x',
      masterPort: 99,
    });
  });

  it('takes the shell of sbatch for a single process', () => {
    const shell = { SLURM_PROCID: '0', SLURM_NTASKS: '8', ENVIRONMENT: 'BATCH', SLURM_JOB_ID: '1' };
    expect(readEnvironment(shell)).toMatchObject({ source: 'none', size: 1 });
    expect(readEnvironment({ ...shell, SLURM_STEP_ID: '0' })).toMatchObject({ source: 'slurm', size: 8 });
  });

  it.each([
    ['RANK alone', { RANK: '0' }, /expected WORLD_SIZE beside RANK=0/],
    ['WORLD_SIZE alone', { WORLD_SIZE: '2' }, /expected RANK beside WORLD_SIZE=2/],
    ['LOCAL_RANK alone', { LOCAL_RANK: '0' }, /RANK and WORLD_SIZE/],
    [
      'a rank beyond the size',
      { ...torchrun, RANK: '4' },
      /^\[rank 4\/4\] expected a rank below the world size 4, received 4/,
    ],
    ['a negative rank', { ...torchrun, RANK: '-1' }, /RANK to be a whole number/],
    ['a fraction', { ...torchrun, WORLD_SIZE: '2.5' }, /WORLD_SIZE to be a whole number/],
    ['a world of none', { ...torchrun, RANK: '0', WORLD_SIZE: '0' }, /world size of 1 or more/],
    ['no master', { RANK: '0', WORLD_SIZE: '2' }, /MASTER_ADDR and MASTER_PORT/],
    ['a port out of range', { ...torchrun, MASTER_PORT: '70000' }, /between 1 and 65535/],
    ['a local rank beyond the local size', { ...torchrun, LOCAL_RANK: '2' }, /local rank below the local size 2/],
    ['more local ranks than ranks', { ...torchrun, LOCAL_WORLD_SIZE: '8' }, /local size of at most 4/],
    [
      'torch variables against Slurm',
      { RANK: '0', WORLD_SIZE: '1', SLURM_STEP_ID: '0', SLURM_PROCID: '1', SLURM_NTASKS: '2' },
      /agree with SLURM_PROCID/,
    ],
    [
      'torch variables against Open MPI',
      { RANK: '0', WORLD_SIZE: '1', OMPI_COMM_WORLD_RANK: '1', OMPI_COMM_WORLD_SIZE: '2' },
      /agree with OMPI_COMM_WORLD_RANK/,
    ],
    [
      'Slurm on hosts without names',
      { SLURM_PROCID: '0', SLURM_NTASKS: '2', SLURM_NNODES: '2' },
      /SLURM_STEP_NODELIST or MASTER_ADDR/,
    ],
  ])('refuses %s', (_, variables, message) => {
    expect(refusal(variables)).toMatchObject({ code: 'BAD_LAUNCH', message: expect.stringMatching(message) });
  });

  it('lets torchrun run inside a Slurm step, whose variables describe the agent', () => {
    const inside = { ...torchrun, SLURM_STEP_ID: '0', SLURM_PROCID: '0', SLURM_NTASKS: '2' };
    expect(readEnvironment(inside)).toMatchObject({ source: 'torchrun', rank: 3, size: 4 });
  });
});

describe('firstHost', () => {
  it.each([
    ['gpu1', 'gpu1'],
    ['gpu1,gpu2', 'gpu1'],
    ['gpu[07-12,20],login1', 'gpu07'],
    ['login1,gpu[1-2]', 'login1'],
    ['rack[1-2]node[3-4]', 'rack1node3'],
    ['n[5]', 'n5'],
  ])('%s begins with %s', (list, host) => {
    expect(firstHost(list)).toBe(host);
  });
});
