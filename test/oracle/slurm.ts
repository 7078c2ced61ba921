// A Slurm cluster of this one machine: munged, slurmctld and slurmd out of a temporary folder, on ports of the loopback
// that were free. It needs root, because slurmd does.
import { type ChildProcess, execFileSync, spawn } from 'node:child_process';
import { randomBytes } from 'node:crypto';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, hostname, tmpdir } from 'node:os';
import { join } from 'node:path';
import { freePort } from '../dist/ranks.js';

/** A cluster that runs. */
export interface Slurm {
  /** For files of its jobs; removed with it. */
  readonly folder: string;
  /** What srun needs beside this process's own variables. */
  readonly env: Readonly<Record<string, string>>;
  stop(): Promise<void>;
}

/** Starts the daemons; resolves when the node is idle. */
export async function startSlurm(): Promise<Slurm> {
  const folder = mkdtempSync(join(tmpdir(), 'shardloop-slurm-'));
  const at = (name: string) => join(folder, name);
  for (const name of ['state', 'spool']) mkdirSync(at(name));
  writeFileSync(at('munge.key'), randomBytes(64), { mode: 0o400 });
  const conf = `
ClusterName=shardloop
SlurmctldHost=${hostname()}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=${at('munge.sock')}
SlurmctldPort=${await freePort()}
SlurmdPort=${await freePort()}
StateSaveLocation=${at('state')}
SlurmdSpoolDir=${at('spool')}
SlurmctldPidFile=${at('slurmctld.pid')}
SlurmdPidFile=${at('slurmd.pid')}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/linear
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
ReturnToService=2
NodeName=here NodeHostname=${hostname()} NodeAddr=127.0.0.1 CPUs=${availableParallelism()} State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES State=UP
`;
  writeFileSync(at('slurm.conf'), conf);
  const env = { SLURM_CONF: at('slurm.conf') };
  let said = '';
  const daemon = (program: string, ...args: string[]): ChildProcess => {
    const child = spawn(program, args, { env: { ...process.env, ...env }, stdio: ['ignore', 'pipe', 'pipe'] });
    for (const stream of [child.stdout!, child.stderr!]) stream.on('data', (text) => (said += text));
    child.once('error', (error) => (said += String(error)));
    return child;
  };
  const munge = ['--key-file=munge.key', '--socket=munge.sock', '--pid-file=munge.pid', '--log-file=munge.log'];
  const daemons: ChildProcess[] = [];
  const stop = async (): Promise<void> => {
    for (const child of daemons.reverse()) {
      const gone = new Promise((resolve) => child.once('close', resolve));
      if (child.exitCode !== null || child.signalCode !== null || child.pid === undefined) continue;
      child.kill('SIGTERM');
      const timer = setTimeout(() => child.kill('SIGKILL'), 5000);
      await gone;
      clearTimeout(timer);
    }
    rmSync(folder, { recursive: true, force: true });
  };
  const places = [...munge, '--seed-file=munge.seed'].map((flag) => flag.replace('=', `=${folder}/`));
  daemons.push(daemon('munged', '--foreground', '--force', ...places));
  daemons.push(daemon('slurmctld', '-D'), daemon('slurmd', '-D', '-N', 'here'));
  const deadline = Date.now() + 60_000;
  while (!isIdle(env)) {
    if (Date.now() > deadline) {
      const log = readFileSync(at('munge.log'), 'utf8');
      await stop();
      throw new Error(`Slurm did not come up:\n${said}\n${log}`);
    }
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
  return { folder, env, stop };
}

function isIdle(env: Readonly<Record<string, string>>): boolean {
  try {
    const options = {
      env: { ...process.env, ...env },
      stdio: ['ignore', 'pipe', 'ignore'] as ['ignore', 'pipe', 'ignore'],
    };
    return execFileSync('sinfo', ['-h', '-o', '%t'], options).toString().trim() === 'idle';
  } catch {
    return false;
  }
}
