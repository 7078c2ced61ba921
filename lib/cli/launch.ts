// `shardloop launch`: start a script as N ranks on this host, under torchrun's environment. The starting, watching and
// ending of the ranks is lib/dist/launch.ts.
import { existsSync } from 'node:fs';
import { createRequire } from 'node:module';
import { extname, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { Command } from 'commander';
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
  logDir?: string;
}

export const launchCommand = () =>
  new Command('launch')
    .description('Start a script as N ranks on this host; with --nnodes and --node-rank, on several hosts.')
    .option('--nproc-per-node <n>', 'ranks on this host (required)', whole(1))
    .option('--nnodes <n>', 'hosts', whole(1), 1)
    .option('--node-rank <n>', 'number of this host, from 0', whole(0), 0)
    .option('--master-addr <host>', 'where rank 0 runs (default: 127.0.0.1, with one host)')
    .option('--master-port <port>', 'port of the rendezvous (default: a free one, with one host)', whole(1))
    .option('--log-dir <dir>', "also write each rank's output to a file in this folder")
    .argument('<script>', 'a .js, .mjs or .ts file')
    .argument('[args...]', 'passed on to the script')
    .passThroughOptions()
    .action(async (script: string, args: string[], flags: LaunchFlags) => {
      try {
        requireFlags(flags, 'nprocPerNode');
        const { launch } = await import('../dist/launch.js');
        const { exitCode } = await launch({ ...flags, command: [process.execPath, ...nodeArguments(script)], args });
        process.exitCode = exitCode;
      } catch (error) {
        fail(error);
      }
    });

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
