// `shardloop plan`: what a run would take, without running it.
import { Command } from 'commander';
import type { z } from 'zod';
import { planSchema } from '../train/config.js';
import { fail, printJson } from './exit.js';
import { addConfigOptions, printConfig, type RunFlags, resolveOptions } from './options.js';

/** The command. */
export function planCommand(): Command {
  const command = new Command('plan').description(
    'predict memory and traffic a rank for any number of ranks, by a step on tensors without memory',
  );
  return addConfigOptions(command, planSchema, { trains: false }).action(
    async (flags: RunFlags & Record<string, unknown>) => {
      try {
        const resolved = resolveOptions(planSchema, flags);
        if (flags.printConfig) return printConfig(resolved, flags.json);
        const { forecast, forecastTable } = await import('../train/forecast.js');
        const result = await forecast(resolved.config as z.infer<typeof planSchema>);
        if (flags.json) return printJson(result);
        process.stdout.write(`${forecastTable(result)}\n`);
      } catch (error) {
        fail(error, { json: flags.json });
      }
    },
  );
}
