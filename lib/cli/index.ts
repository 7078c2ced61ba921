#!/usr/bin/env node
// The `shardloop` program: the list of its commands. What each does is in the file of its name; how a command ends is
// in exit.ts.
import { realpathSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { Command } from 'commander';
import { nameAsFlags, processIsCommand } from '../core/option-names.js';
import { version } from '../train/versions.js';
import { benchCommand } from './bench.js';
import { consolidateCommand } from './consolidate.js';
import { doctorCommand } from './doctor.js';
import { EXIT, fail } from './exit.js';
import { finetuneCommand } from './finetune.js';
import { generateCommand } from './generate.js';
import { launchCommand } from './launch.js';
import { mergeCommand } from './merge.js';
import { planCommand } from './plan.js';
import { pretrainCommand } from './pretrain.js';
import { setupCommand } from './setup.js';

/** The program with all its commands; it throws CommanderError where commander alone would end the process. */
export function program(): Command {
  const root = new Command('shardloop')
    .description('Train, shard and fine-tune GPT-style models from TypeScript.')
    .version(version(), '-v, --version')
    .enablePositionalOptions()
    .showHelpAfterError('(--help lists what there is)');
  for (const command of [
    pretrainCommand(),
    finetuneCommand(),
    generateCommand(),
    mergeCommand(),
    consolidateCommand(),
    planCommand(),
    launchCommand(),
    benchCommand(),
    doctorCommand(),
    setupCommand(),
  ]) {
    root.addCommand(command.copyInheritedSettings(root));
  }
  for (const command of [root, ...root.commands]) command.exitOverride();
  return root;
}

function onBrokenPipe(error: NodeJS.ErrnoException): void {
  if (error.code !== 'EPIPE') throw error; // `| head` has seen enough
}

/** Run one command line (without `node` and the script's name). Sets process.exitCode; never throws. */
export async function main(args: string[]): Promise<void> {
  process.exitCode = EXIT.done;
  process.stdout.off('error', onBrokenPipe).on('error', onBrokenPipe);
  try {
    await nameAsFlags(() => program().parseAsync(args, { from: 'user' }));
  } catch (error) {
    fail(error, { json: args.includes('--json') });
  }
}

if (process.argv[1] && realpathSync(process.argv[1]) === fileURLToPath(import.meta.url)) {
  processIsCommand();
  await main(process.argv.slice(2));
}
