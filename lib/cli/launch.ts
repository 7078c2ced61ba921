// `shardloop launch`: start a script as N ranks on this host, under torchrun's environment. The starting, watching and
// ending of the ranks is lib/dist/launch.ts.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { extname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Command, Option } from 'commander';
import { ShardloopError } from '../core/errors.js';
import { fail } from './exit.js';
import { whole } from './generate.js';
import { requireFlags } from './options.js';

interface LaunchFlags {
  nprocPerNode: number;
  nnodes: number;
  nodeRank: number;
  masterAddr?: string;
  masterPort?: number;
  standalone?: boolean;
  maxRestarts: number;
  logDir?: string;
}

export const launchCommand = () =>
  new Command('launch')
    .description('Start a script as N ranks on this host; with --nnodes and --node-rank, on several hosts.')
    .addOption(flag('--nproc-per-node <n>', 'ranks on this host (required)', 1))
    .addOption(flag('--nnodes <n>', 'hosts', 1).default(1))
    .addOption(flag('--node-rank <n>', 'number of this host, from 0', 0).default(0))
    .addOption(flag('--master-addr <host>', 'where rank 0 runs (default: 127.0.0.1, with one host)'))
    .addOption(flag('--master-port <port>', 'port of the rendezvous (default: a free one, with one host)', 1))
    .option('--standalone', 'one host and a free port; refuses the options about other hosts')
    .addOption(flag('--max-restarts <n>', 'how often all ranks start again after one failed', 0).default(0))
    .option('--log-dir <dir>', "also write each rank's output to a file in this folder")
    .argument('<script>', 'a .js, .mjs or .ts file')
    .argument('[args...]', 'passed on to the script')
    .passThroughOptions()
    .action(async (script: string, args: string[], flags: LaunchFlags, command: Command) => {
      try {
        if (flags.standalone) forgetVariables(flags, command);
        requireFlags(flags, 'nprocPerNode');
        const { launch } = await import('../dist/launch.js');
        const { exitCode } = await launch({ ...flags, command: [process.execPath, ...nodeArguments(script)], args });
        process.exitCode = exitCode;
      } catch (error) {
        fail(error);
      }
    });

/** An option that is also a variable of torchrun's (PET_NNODES), which Kubernetes' PyTorchJob sets in its pods. */
function flag(flags: string, text: string, least?: number): Option {
  const option = new Option(flags, text);
  if (least !== undefined) option.argParser(whole(least));
  return option.env(`PET_${option.name().replaceAll('-', '_').toUpperCase()}`);
}

/** What was said in general gives way to `--standalone`, which was said just now. */
function forgetVariables(flags: LaunchFlags, command: Command): void {
  const fromVariable = (name: keyof LaunchFlags) => command.getOptionValueSource(name) === 'env';
  if (fromVariable('nnodes')) flags.nnodes = 1;
  if (fromVariable('nodeRank')) flags.nodeRank = 0;
  for (const name of ['masterAddr', 'masterPort'] as const) if (fromVariable(name)) delete flags[name];
}

/** Node's arguments that run `script`: a TypeScript file goes through the tsx that its project has. */
export function nodeArguments(script: string): string[] {
  const path = resolve(script);
  if (!existsSync(path)) throw new ShardloopError('BAD_CONFIG', `launch: expected a script, found no file ${script}`);
  if (!['.ts', '.mts', '.cts'].includes(extname(path))) return [path];
  for (const from of [path, resolve('package.json')]) {
    try {
      return ['--import', pathToFileURL(createRequire(from).resolve('tsx')).href, path];
    } catch {
      // not installed there
    }
  }
  throw new ShardloopError(
    'BAD_CONFIG',
    `launch: ${script} is TypeScript and its project has no tsx; run \`npm install --save-dev tsx\`, or launch compiled JavaScript`,
  );
}
