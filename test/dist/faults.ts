// What can go wrong between ranks, as small programs: each breaks one thing on purpose and tells what every other rank
// saw and when. faults.test.ts runs each once, `npm run soak` ten times, `npm run faults` writes docs/faults.md.
import { freePort, runRanks } from './ranks.js';

/** Seconds after which a waiting rank gives up, in all faults. */
export const DEADLINE = 3;

/** One fault. */
export interface Fault {
  readonly name: string;
  /** What happens, for people. */
  readonly what: string;
  readonly ranks: number;
  /** The text of each rank's module, behind PRELUDE. It calls fault() as it breaks, and survive() elsewhere. */
  readonly body: string;
  /** The variables of a rank, over those of a launch on this host. */
  readonly env?: (port: number) => Record<string, string>;
  /** Ranks that must report an error. */
  readonly survivors: readonly number[];
  /** What the survivors' messages must say, by rank or for all. */
  readonly says: RegExp;
  /** Not after DEADLINE but soon. */
  readonly soon?: boolean;
}

/** What one run of a fault showed. */
export interface FaultRun {
  readonly fault: Fault;
  /** By surviving rank: its message, code, and milliseconds from the fault; null when it reported nothing. */
  readonly seen: ReadonlyMap<number, { message: string; code: string; ms: number } | null>;
  readonly codes: readonly (number | null)[];
}

const OPEN = `
  const group = await dist.init({ timeoutSeconds: ${DEADLINE}, backend: process.env.BACKEND });
  const pids = await group.allGatherObject(process.pid);
  const t = core.ones([1000]);
  for (let i = 0; i < 20; i++) await group.allReduce(t, 'avg').done();
  await new Promise((resolve) => setTimeout(resolve, 400)); // the monitors have told what was done`;

const HELPERS = `
  import { writeSync } from 'node:fs';
  const fault = () => writeSync(1, 'REPORT ' + JSON.stringify({ fault: Date.now() }) + '\\n');
  const survive = async (fn) => {
    try { await fn(); report({ error: 'nothing', code: 'none', at: Date.now() }); }
    catch (e) { report({ error: e.message, code: e.code, at: Date.now() }); }
  };
  const sleep = (seconds) => new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  const reduce = () => group.allReduce(t, 'avg').done();
  const reduceOften = async () => { for (let i = 0; i < 100; i++) { await reduce(); await sleep(0.05); } };`;

const among = (faulty: number, breaks: string, others = 'await survive(reduceOften);') =>
  `${HELPERS}${OPEN}\n  if (rank === ${faulty}) { ${breaks} } else { ${others} }\n  process.exit(rank === ${faulty} ? 1 : 0);`;

/** All faults, in the order of the page. */
export const FAULTS: readonly Fault[] = [
  {
    name: 'a rank dies',
    what: 'rank 1 of 3 is killed (SIGKILL) between two collectives',
    ranks: 3,
    body: among(1, `fault(); process.kill(process.pid, 'SIGKILL'); await sleep(60);`),
    survivors: [0, 2],
    says: /Rank 1 does not answer \(dead or stopped\)/,
    soon: true,
  },
  {
    name: 'a rank hangs',
    what: 'rank 1 of 3 is stopped (SIGSTOP); its connections stay open',
    ranks: 3,
    body: among(
      1,
      `fault(); process.kill(process.pid, 'SIGSTOP'); await sleep(1);`,
      `await survive(reduceOften); try { process.kill(pids[1], 'SIGKILL'); } catch {}`,
    ),
    survivors: [0, 2],
    says: /Rank 1 does not answer \(dead or stopped\); its last operation was all_reduce \(avg\) #2\d/,
  },
  {
    name: 'a rank throws',
    what: 'rank 1 of 3 throws a TypeError that nobody catches',
    ranks: 3,
    body: among(1, `fault(); null.trains();`),
    survivors: [0, 2],
    says: /Rank 1 does not answer \(dead or stopped\)/,
    soon: true,
  },
  {
    name: 'a rank is slow',
    what: `rank 1 of 3 computes for longer than the deadline of ${DEADLINE} s`,
    ranks: 3,
    body: among(1, `fault(); await sleep(${DEADLINE} + 3);`),
    survivors: [0, 2],
    says: /Rank 1 is alive and has not arrived; its last operation was all_reduce \(avg\) #2\d/,
  },
  {
    name: 'the order differs',
    what: 'rank 1 of 3 calls a broadcast where the others call an all_reduce',
    ranks: 3,
    body: among(
      1,
      `fault(); await survive(() => group.broadcast(t, 1).done());`,
      'await survive(reduce); await sleep(1);',
    ),
    survivors: [0, 1, 2],
    says: /Rank \d called (broadcast \(root 1\)|all_reduce \(avg\)) of float32 \(1000\) as #2\d/,
  },
  {
    name: 'the shape differs',
    what: 'rank 1 of 3 reduces (1001) where the others reduce (1000)',
    ranks: 3,
    body: among(
      1,
      `fault(); await survive(async () => { await group.allReduce(core.ones([1001]), 'avg').done(); await sleep(1); await group.barrier().done(); }); await sleep(1);`,
      `await survive(async () => { await reduce(); await sleep(1); await group.barrier().done(); }); await sleep(1);`,
    ),
    survivors: [0, 1, 2],
    says: /failed (earlier|first)|Rank \d called all_reduce \(avg\) of float32 \(100[01]\) as #2\d/,
    soon: true,
  },
  {
    name: 'the number differs',
    what: 'rank 1 of 3 leaves the loop one all_reduce early and closes the group',
    ranks: 3,
    body: among(1, `fault(); await group.destroy(); await sleep(${DEADLINE} + 2);`, 'await survive(reduce);'),
    survivors: [0, 2],
    says: /Rank 1 has left the group/,
  },
  {
    name: "the store's host dies",
    what: 'rank 0 of 3, which serves the store because there is no launcher, is killed',
    ranks: 3,
    body: among(0, `fault(); process.kill(process.pid, 'SIGKILL'); await sleep(60);`),
    survivors: [1, 2],
    says: /What the other ranks did is not known: the store's host does not answer/,
    soon: true,
  },
  {
    name: 'the port is taken',
    what: 'another program listens on MASTER_PORT',
    ranks: 1,
    body: `${HELPERS}
      const { createServer } = await import('node:net');
      const server = createServer();
      await new Promise((resolve) => server.listen(Number(process.env.MASTER_PORT), '127.0.0.1', resolve));
      fault();
      await survive(() => dist.init({ timeoutSeconds: ${DEADLINE} }));
      process.exit(0);`,
    env: () => ({ WORLD_SIZE: '2' }),
    survivors: [0],
    says: /could not serve the store on 127\.0\.0\.1:\d+; is the port taken/,
    soon: true,
  },
  {
    name: 'the host does not resolve',
    what: 'MASTER_ADDR is a name that nobody knows',
    ranks: 1,
    body: `${HELPERS}\n fault(); await survive(() => dist.init({ timeoutSeconds: ${DEADLINE} })); process.exit(0);`,
    env: () => ({ RANK: '1', WORLD_SIZE: '2', MASTER_ADDR: 'no-such-host.invalid' }),
    survivors: [0],
    says: /could not reach the store on no-such-host\.invalid:\d+ within 3 s; is MASTER_ADDR the name/,
  },
  {
    name: 'a rank starts late',
    what: `rank 1 of 2 starts after the deadline of ${DEADLINE} s`,
    ranks: 2,
    body: `${HELPERS}
      if (rank === 1) { fault(); await sleep(${DEADLINE} + 2); } else await survive(() => dist.init({ timeoutSeconds: ${DEADLINE} }));
      process.exit(0);`,
    survivors: [0],
    says: /the 2 ranks did not find each other within 3 s; did one not start, or die/,
  },
];

/** Runs one fault once. */
export async function runFault(fault: Fault, backend: 'gloo' | 'shm'): Promise<FaultRun> {
  const runs = await runRanks(fault.ranks, fault.body, { BACKEND: backend, ...fault.env?.(await freePort()) });
  const reports = runs.map((run) => run.reports as { fault?: number; error?: string; code?: string; at?: number }[]);
  const began = reports.flat().find((report) => report.fault !== undefined)?.fault ?? Number.NaN;
  const seen = new Map(
    fault.survivors.map((rank) => {
      const report = reports[rank]?.find(({ error }) => error !== undefined);
      return [
        rank,
        report ? { message: report.error!, code: report.code ?? '', ms: report.at! - began } : null,
      ] as const;
    }),
  );
  return { fault, seen, codes: runs.map(({ code }) => code) };
}

/** What is wrong with how a fault went; `graceSeconds` is what a rank may take beyond the deadline. */
export function faultsOf({ fault, seen }: FaultRun, graceSeconds: number): string[] {
  const wrong: string[] = [];
  const limit = (DEADLINE + graceSeconds) * 1000;
  for (const [rank, report] of seen) {
    if (report === null) wrong.push(`${fault.name}: rank ${rank} reported nothing`);
    else {
      if (!fault.says.test(report.message)) wrong.push(`${fault.name}: rank ${rank} says ${report.message}`);
      if (!(report.ms <= limit)) wrong.push(`${fault.name}: rank ${rank} needed ${report.ms} ms, at most ${limit}`);
    }
  }
  return wrong;
}
