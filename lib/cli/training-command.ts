// What `pretrain` and `finetune` share as commands: flags to config, ranks, signals, the summary. The training itself
// is in lib/train.
import { existsSync } from 'node:fs';
import { Command } from 'commander';
import type { z } from 'zod';
import type { TrainingConfig, TrainingSchema } from '../train/config.js';
import { checkFolders, checkOptions } from '../train/option-check.js';
import type { RunOptions, RunResult } from '../train/run.js';
import { fail, printJson } from './exit.js';
import { addConfigOptions, printConfig, type RunFlags, resolveOptions } from './options.js';
import { mustStartRanks, startRanks } from './ranks.js';
import { listenForStop, type StopListener } from './stop.js';

interface TrainingCommand<S extends TrainingSchema> {
  name: 'pretrain' | 'finetune';
  description: string;
  schema: S;
  /** Loads the training code, which takes longer than to print the help. */
  load(): Promise<(config: z.infer<S>, options: RunOptions) => Promise<RunResult>>;
}

/** Build a command that trains. */
export function trainingCommand<S extends TrainingSchema>(definition: TrainingCommand<S>): Command {
  const { name, description, schema, load } = definition;
  const command = new Command(name).description(description);
  return addConfigOptions(command, schema).action(async (flags: RunFlags & Record<string, unknown>) => {
    let stop: StopListener | undefined;
    try {
      const resolved = resolveOptions(schema, flags);
      if (flags.printConfig) return printConfig(resolved, flags.json);
      const config = resolved.config as z.infer<S>;
      if (mustStartRanks(config)) {
        await checkBeforeRanks(config);
        return await startRanks(config);
      }
      stop = listenForStop();
      const train = await load();
      const { signal, enter: onPhase } = stop;
      const result = await train(config, { signal, onPhase, dryRun: flags.dryRun, progress: process.stderr });
      if (result.rank === 0) await print(result, flags.json);
    } catch (error) {
      fail(error, { json: flags.json, signal: stop?.received() });
    } finally {
      stop?.close();
      // A rank that was stopped while it waited for others may still hold the connection on which it waited.
      if (stop?.received()) setTimeout(() => process.exit(), 200).unref();
    }
  });
}

/** What every rank would find out for itself is said once, and no rank is started. */
async function checkBeforeRanks(config: TrainingConfig): Promise<void> {
  checkOptions(config, config.nproc);
  checkFolders(config);
  const { resume } = config;
  if (resume === undefined || resume === 'auto' || existsSync(resume)) return;
  const { requireCheckpoint } = await import('../io/checkpoint-read.js'); // loads libtorch, which a launcher does without
  await requireCheckpoint(resume);
}

async function print(result: RunResult, json = false): Promise<void> {
  if (json) return printJson(result.summary);
  const { summaryTable } = await import('../train/summary.js');
  process.stdout.write(`${summaryTable(result.summary)}\n`);
}
