// `shardloop doctor`: what this machine has, what is wrong, and the command that mends it. Works with no addon and no
// libtorch. Not here: how the facts are found (lib/setup/diagnose.ts).
import { Command } from 'commander';
import picocolors from 'picocolors';
import { type Diagnosis, diagnose } from '../setup/diagnose.js';
import { EXIT, fail, printJson } from './exit.js';

// picocolors colours whatever a CI prints, into files and pipes too.
const pc = picocolors.createColors(picocolors.isColorSupported && process.stdout.isTTY === true);

export const doctorCommand = () =>
  new Command('doctor')
    .description('Print what shardloop finds on this machine, and what is wrong with the command that mends it.')
    .option('--json', 'print one JSON object')
    .action(async (flags: { json?: boolean }) => {
      try {
        const diagnosis = await diagnose();
        if (flags.json) printJson(diagnosis);
        else process.stdout.write(`${formatDiagnosis(diagnosis)}\n`);
        process.exitCode = diagnosis.ok ? EXIT.done : EXIT.failed;
      } catch (error) {
        fail(error, flags);
      }
    });

/** A diagnosis for a person: one line a fact, then the problems. */
export function formatDiagnosis(d: Diagnosis): string {
  const gib = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;
  const space = (of: { totalBytes: number; freeBytes: number }) => `${gib(of.totalBytes)}, ${gib(of.freeBytes)} free`;
  const facts: [string, string][] = [
    ['platform', d.platform ? `${d.platform.name}${d.platform.tested ? '' : ' (untested)'}` : 'not supported'],
    ['Node', d.node.version],
    ['N-API', d.node.napi],
    ['addon', d.addon ? `${d.addon.path}${d.addon.ops === null ? '' : ` (${d.addon.ops} ops)`}` : 'not built'],
    ['libtorch', d.libtorch ? `${d.libtorch.version} from ${d.libtorch.source}: ${d.libtorch.dir}` : 'not found'],
    ['CPU capability', d.cpuCapability ? `${d.cpuCapability.name} (by ${d.cpuCapability.from})` : 'unknown'],
    ['CUDA', cudaLine(d)],
    ['driver', d.driver ?? 'none'],
    ['NCCL', d.nccl ? `${d.nccl.version}${d.nccl.usable ? '' : ' (not loaded)'}` : 'none'],
    ['GPUs', d.gpus.map((g) => `${g.name} (${gib(g.memoryBytes)}, ${g.computeCapability})`).join('; ') || 'none'],
    ['Gloo', d.gloo === null ? 'unknown until the addon loads' : d.gloo ? 'yes' : 'no'],
    ['cores', String(d.cores)],
    ['memory', space(d.memory)],
    ['/dev/shm', d.sharedMemory ? space(d.sharedMemory) : 'none'],
    ['compiler', d.tools.compiler ?? 'none'],
    ['cmake', d.tools.cmake ?? 'none (3.18 or newer)'],
    ['pip', d.tools.pip ?? 'none'],
  ];
  const lines = facts.map(([name, value]) => `${pc.bold(name.padEnd(16))}${value}`);
  if (d.problems.length === 0) return [...lines, '', pc.green('Nothing is wrong.')].join('\n');
  const problems = d.problems.flatMap(({ what, command }) => [`${pc.red('x')} ${what}`, `  ${pc.bold(command)}`]);
  return [...lines, '', 'What is wrong, and the command that mends it:', ...problems].join('\n');
}

function cudaLine(d: Diagnosis): string {
  const nvcc = d.cuda.nvcc ? `; nvcc ${d.cuda.nvcc}` : '';
  if (!d.cuda.version) return `none in libtorch${nvcc}`;
  return `${d.cuda.version} in libtorch, ${d.cuda.usable ? 'usable' : 'not usable here'}${nvcc}`;
}
