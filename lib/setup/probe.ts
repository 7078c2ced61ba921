// Asks a built addon about itself in a process of its own, so that a crash of the loader cannot take the caller along.
// Not here: what the answers mean (diagnose.ts).
import { run, tail } from './process.js';

/** What a loaded addon says. */
export interface Probe {
  readonly ops: number;
  readonly libtorch: string;
  /** The instruction set that libtorch uses: `AVX512`, `AVX2`, `DEFAULT`. */
  readonly cpuCapability: string;
  readonly hasCuda: boolean;
  readonly gloo: boolean;
  readonly nccl: boolean;
  /** Why the CUDA part is not in use; empty when it is. */
  readonly cudaProblem: string | null;
}

const PROGRAM = `
const a = require(process.argv[1]);
a.init((code, message) => Object.assign(new Error(message), { code }));
const ask = (name, ...args) => { try { return a.call(a.resolve('shardloop::' + name, ''), ...args); } catch { return null; } };
console.log(JSON.stringify({
  ops: a.schemas().length, libtorch: ask('libtorch_version'), cpuCapability: ask('cpu_capability'),
  hasCuda: ask('has_cuda'), gloo: ask('backend_available', 'gloo'), nccl: ask('backend_available', 'nccl'),
  cudaProblem: ask('cuda_library_problem'),
}));`;

/** Loads the addon in a child process. Returns what it says, or why it could not be loaded. */
export async function probe(addon: string): Promise<Probe | string> {
  const said = await run(process.execPath, ['-e', PROGRAM, addon], { timeoutMs: 120_000 });
  if (said.code !== 0) return loaderMessage(said.stderr) ?? tail(said);
  try {
    return JSON.parse(said.stdout.trim().split('\n').pop() ?? '') as Probe;
  } catch {
    return tail(said);
  }
}

/** The line that says what went wrong: `Error: libc10.so: cannot open shared object file...`, or C++'s `what():  ...`. */
function loaderMessage(stderr: string): string | null {
  return /^(?:\w*Error|\s*what\(\)): +(.+)$/m.exec(stderr)?.[1] ?? null;
}
