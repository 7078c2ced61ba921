// `npm run bench -- NAME [--json]`: the list of benchmarks and nothing else. They measure the built package (dist).
import { dispatch } from './dispatch.js';

const BENCHMARKS: Record<string, (json: boolean) => Promise<unknown>> = { dispatch };

const [name, ...flags] = process.argv.slice(2);
const run = name === undefined ? undefined : BENCHMARKS[name];
if (!run || flags.some((flag) => flag !== '--json')) {
  console.error(`usage: npm run bench -- ${Object.keys(BENCHMARKS).join(' | ')} [--json]`);
  process.exitCode = 2;
} else {
  await run(flags.includes('--json'));
}
