// `npm run faults [-- --runs N] [--backend gloo|shm] [--out FILE]`: breaks things between ranks on purpose (test/dist/faults.ts) and writes
// docs/faults.md: for each fault what every rank says, and how long after the fault. Ends with 1 when a rank hangs, says
// the wrong thing, or needs more than a second beyond its deadline.
import { writeFileSync } from 'node:fs';
import { availableParallelism, cpus } from 'node:os';
import { join } from 'node:path';
import { parseArgs } from 'node:util';
import { DEADLINE, FAULTS, type FaultRun, faultsOf, runFault } from '../test/dist/faults.js';

const { values } = parseArgs({
  options: {
    runs: { type: 'string', default: '3' },
    out: { type: 'string' },
    backend: { type: 'string', default: 'shm' },
  },
});
const out = values.out ?? join(import.meta.dirname, '..', 'docs', 'faults.md');
const runs = Number(values.runs);
const backend = values.backend === 'gloo' ? 'gloo' : 'shm';

const wrong: string[] = [];
const sections: string[] = [];
for (const fault of FAULTS) {
  const done: FaultRun[] = [];
  for (let i = 0; i < runs; i++) done.push(await runFault(fault, backend));
  wrong.push(...done.flatMap((run) => faultsOf(run, 1)));
  sections.push(section(done));
  process.stderr.write(
    `${fault.name}: ${done.flatMap((run) => faultsOf(run, 1)).length === 0 ? 'as it should' : 'WRONG'}\n`,
  );
}

/** A fault for people: what happens, the times, and each rank's words in the last run. */
function section(done: readonly FaultRun[]): string {
  const { fault, seen } = done.at(-1)!;
  const times = done.flatMap((run) => [...run.seen.values()].flatMap((report) => (report ? [report.ms] : [])));
  const sorted = [...times].sort((a, b) => a - b);
  const seconds = (ms: number | undefined) => (ms === undefined ? '?' : `${(ms / 1000).toFixed(2)} s`);
  const lines = [...seen].map(([rank, report]) => `- rank ${rank}: \`${report?.message ?? 'nothing'}\``);
  const middle = sorted[Math.floor(sorted.length / 2)];
  return [
    `## ${fault.name[0]!.toUpperCase()}${fault.name.slice(1)}`,
    '',
    `${fault.what[0]!.toUpperCase()}${fault.what.slice(1)}. From the fault to the error: ${seconds(middle)} in the median, ` +
      `at most ${seconds(sorted.at(-1))}.`,
    '',
    ...lines,
    '',
  ].join('\n');
}

const head = `# Faults

What one sees when something goes wrong between ranks, and how soon. Written by \`npm run faults\` on
${new Date().toISOString().slice(0, 10)}: ${runs} runs of each over '${backend}', ${availableParallelism()} cores (${cpus()[0]?.model.trim() ?? 'unknown'}), Node ${process.versions.node};
the deadline (\`timeoutSeconds\`) was ${DEADLINE} s, and is 600 s where nobody sets it. Over Gloo (several hosts) the same
is said of the ranks; the first cause reads \`Connection reset by peer [ADDRESS]\` or \`Timed out waiting 3000ms for recv
operation\`, and ranks that differ in order wait for the deadline, where shared memory compares at once.

A message begins with the rank that says it. It names the operation with its number and shapes, what happened first and
where, the ranks that arrived at that operation, and for the others what they did last. To know this, each rank writes
its last operations into the store of its group every 150 ms, on a thread of its own, so that a rank whose JavaScript is
stuck still answers. The first failure is written there too and ends the operations of all ranks; a rank that fails
spends about half a second on asking. \`SHARDLOOP_DEBUG=collectives\` compares operation, shapes and dtypes before every
collective, and names the rank that differs instead of waiting for the deadline.

`;
writeFileSync(out, `${head}${sections.join('\n')}`);
for (const line of wrong) console.error(line);
if (wrong.length > 0) process.exitCode = 1;
