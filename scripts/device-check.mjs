// One command for a host with a CUDA device: set-up with the CUDA part, test/gpu, the benches, and the figures as a page
// in docs/log with date and versions:
//   node scripts/device-check.mjs [--out FILE] [--no-setup]
// --no-setup takes dist/ and build/ as they are, for a host without a network. Ends with 1 when a test failed.
import { spawnSync } from 'node:child_process';
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { parseArgs } from 'node:util';
import { nativeSetup, prepare, root, say } from './setup.mjs';

const { values } = parseArgs({ options: { out: { type: 'string' }, 'no-setup': { type: 'boolean', default: false } } });
const day = new Date().toISOString().slice(0, 10);
const out = values.out ?? join(root, 'docs', 'log', `${day}-device.md`);

/** Runs a program of this clone; its output is shown on stderr and returned. */
function run(args) {
  const { status, stdout } = spawnSync(process.execPath, args, {
    ...{ cwd: root, encoding: 'utf8', maxBuffer: 2 ** 26, stdio: ['ignore', 'pipe', 2] },
  });
  process.stderr.write(stdout);
  return { ok: status === 0, text: stdout.trim() };
}

if (!values['no-setup']) {
  prepare();
  await nativeSetup({ cuda: true });
}
const doctor = JSON.parse(run([join(root, 'dist', 'cli', 'index.js'), 'doctor', '--json']).text);
if (doctor.gpus.length === 0) {
  say('expected a CUDA device, found none; see `npx shardloop doctor`. Nothing was written.');
  process.exit(1);
}
const vitest = join(root, 'node_modules', 'vitest', 'vitest.mjs');
const tests = run([vitest, 'run', '--config', join('test', 'gpu', 'vitest.config.ts'), '--no-color']);
const tsx = join(root, 'node_modules', 'tsx', 'dist', 'cli.mjs');
const bench = run([tsx, join('bench', 'index.ts'), 'dispatch']);

const block = (text) => `\`\`\`\n${text}\n\`\`\`\n`;
mkdirSync(dirname(out), { recursive: true });
writeFileSync(
  out,
  [
    `# A run on a CUDA device, ${day}\n`,
    `Node ${doctor.node.version}, libtorch ${doctor.libtorch?.version}, CUDA ${doctor.cuda?.version}, NCCL ${doctor.nccl?.version}.\n`,
    block(JSON.stringify(doctor.gpus, null, 2)),
    `## test/gpu: ${tests.ok ? 'passed' : 'FAILED'}\n`,
    block(tests.text),
    `## bench dispatch${bench.ok ? '' : ': FAILED'}\n`,
    block(bench.text),
  ].join('\n'),
);
say(`written: ${out}`);
process.exitCode = tests.ok && bench.ok ? 0 : 1;
