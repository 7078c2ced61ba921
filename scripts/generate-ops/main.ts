// Generates lib/core/ops.ts, lib/core/methods.ts and docs/coverage.md from the schemas of the loaded libtorch.
//   npm run generate-ops               writes the three files
//   npm run generate-ops -- --out DIR  writes them into DIR instead, to compare
import { mkdirSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { native, opId, raw } from '../../lib/core/binding.js';
import { ShardloopError } from '../../lib/core/errors.js';
import { METHODS } from './choices.js';
import { emitCoverage } from './coverage.js';
import { emitMethods, emitOps } from './emit.js';
import { group } from './merge.js';
import { judge } from './select.js';

/** The three files as texts, by their path in the repository. Throws when a choice no longer fits the schemas. */
export function generate(): Map<string, string> {
  const verdicts = judge(native().schemas());
  const operations = group(verdicts.filter(({ reason }) => reason === null).map(({ schema }) => schema));
  const ambiguous = operations.flatMap((operation) => operation.ambiguous);
  if (ambiguous.length > 0) throw new Error(`choices.ts: no call can tell these apart:\n${ambiguous.join('\n')}`);
  const names = new Set(operations.map(({ name }) => name));
  const gone = METHODS.filter((name) => !names.has(name));
  if (gone.length > 0) throw new Error(`choices.ts: methods that are no operations: ${gone.join(', ')}`);
  const version = raw('shardloop::libtorch_version') as string;
  const refused = new Map<string, string>();
  for (const { choices } of operations) {
    for (const { overload } of choices) {
      const reason = refusal(overload.schema.qualified);
      if (reason !== null) refused.set(overload.schema.qualified.slice('aten::'.length), reason);
    }
  }
  return new Map([
    ['lib/core/ops.ts', emitOps(operations)],
    ['lib/core/methods.ts', emitMethods(operations)],
    ['docs/coverage.md', emitCoverage(version, verdicts, operations, refused)],
  ]);
}

/** Why the addon refuses this op by name, or null. */
function refusal(qualified: string): string | null {
  try {
    opId(qualified);
    return null;
  } catch (error) {
    if (error instanceof ShardloopError && error.code === 'OP_REFUSED')
      return error.message.replace(/^\S+ is refused: /, '');
    throw error;
  }
}

function main(): void {
  const root = join(dirname(fileURLToPath(import.meta.url)), '..', '..');
  const at = process.argv.indexOf('--out');
  const out = at < 0 ? root : process.argv[at + 1];
  if (out === undefined) throw new Error('--out: expected a folder');
  for (const [path, text] of generate()) {
    const file = join(out, path);
    mkdirSync(dirname(file), { recursive: true });
    writeFileSync(file, text);
    process.stdout.write(`${file}\n`);
  }
}

if (process.argv[1] === fileURLToPath(import.meta.url)) main();
