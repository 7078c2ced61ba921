// `npm run bench [-- NAME...] [--json]`: runs the named benchmarks, or all. They measure the built package (dist).
import { checkpoint } from './checkpoint.js';
import { collectives } from './collectives.js';
import { dispatch } from './dispatch.js';
import { generation } from './generation.js';
import { memory } from './memory.js';
import { optimizer } from './optimizer.js';
import { startUp } from './start-up.js';
import { step } from './step.js';
import { zero } from './zero.js';

const BENCHMARKS: Record<string, (json: boolean) => Promise<unknown>> = {
  dispatch,
  collectives,
  optimizer,
  zero,
  checkpoint,
  memory,
  step,
  generation,
  start: startUp,
};

const args = process.argv.slice(2);
const json = args.includes('--json');
const names = args.filter((arg) => arg !== '--json');
if (names.some((name) => !(name in BENCHMARKS))) {
  console.error(`usage: npm run bench [-- ${Object.keys(BENCHMARKS).join(' | ')} ...] [--json]`);
  process.exitCode = 2;
} else {
  for (const name of names.length > 0 ? names : Object.keys(BENCHMARKS)) await BENCHMARKS[name]!(json);
}
