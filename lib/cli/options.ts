// Turns a config schema into flags, and the flags, environment and config file back into a checked config.
import type { Command } from 'commander';
import { Option } from 'commander';
import { stringify } from 'yaml';
import type { z } from 'zod';
import { ShardloopError } from '../core/errors.js';
import { kebab } from '../core/option-names.js';
import type { ConfigSchema } from '../train/config.js';
import { baseType, type Resolved, resolveConfig } from '../train/config-sources.js';
import { printJson } from './exit.js';

/** Flags of a training command that are no key of its config. */
export interface RunFlags {
  config?: string;
  printConfig?: boolean;
  dryRun?: boolean;
  json?: boolean;
}

/** Add `--config`, `--print-config`, `--json`, for a command that trains `--dry-run`, and one flag for every key of the schema. */
export function addConfigOptions(command: Command, schema: ConfigSchema, { trains = true } = {}): Command {
  command
    .option('--config <file>', 'YAML or JSON file with the same keys as the flags below; flags and variables go first')
    .option('--print-config', 'print the config that would be used, and where each value comes from; do nothing')
    .option('--json', 'print one JSON object on stdout');
  if (trains) command.option('--dry-run', 'print parameters, memory, steps and tokens, run one step, write nothing');
  for (const [key, field] of Object.entries(schema.shape) as [string, z.ZodType][]) {
    const text = describeField(field);
    if (baseType(field).type === 'boolean') {
      command.addOption(new Option(`--${kebab(key)}`, text)).addOption(new Option(`--no-${kebab(key)}`).hideHelp());
    } else {
      command.addOption(new Option(`--${kebab(key)} <${placeholder(field)}>`, text));
    }
  }
  return command.addHelpText(
    'after',
    '\nEvery option is also an environment variable (--lora-rank: SHARDLOOP_LORA_RANK) and a key of the --config file\n' +
      '(loraRank or lora-rank). Precedence: flag, variable, file, default.\n' +
      'Exit codes: 0 done, 1 failed, 2 usage, 3 bad data, 130 SIGINT, 143 SIGTERM.',
  );
}

function placeholder(field: z.ZodType): string {
  const { type, takesNumber } = baseType(field);
  return type === 'number' ? 'n' : type === 'union' && takesNumber ? 'choice' : type === 'enum' ? 'choice' : 'text';
}

function describeField(field: z.ZodType): string {
  const { options, type } = baseType(field);
  const parsed = field.safeParse(undefined);
  const initial = parsed.success && parsed.data !== undefined ? ` (default: ${String(parsed.data)})` : '';
  const choices = type === 'enum' ? ` [${options.join('|')}]` : '';
  return `${field.description ?? ''}${choices}${initial}`;
}

/** Resolve a command's flags together with the environment and the config file that `--config` names. */
export function resolveOptions<S extends ConfigSchema>(schema: S, options: RunFlags & Record<string, unknown>) {
  const { config: file, printConfig: _p, dryRun: _d, json: _j, ...flags } = options;
  return resolveConfig(schema, { flags, env: process.env, file });
}

/** What `--print-config` prints: a config file that says where each value came from, or one JSON object. */
export function printConfig({ config, sources }: Resolved<object>, json = false): void {
  if (json) {
    printJson({ config, sources });
    return;
  }
  const lines = Object.entries(sources).map(([key, source]) => {
    const value = (config as Record<string, unknown>)[key];
    return value === undefined ? `# ${key}: not set` : `${stringify({ [key]: value }).trimEnd()} # ${source}`;
  });
  process.stdout.write(`${lines.join('\n')}\n`);
}

/** BAD_CONFIG unless all these flags were given. (commander's own check would hide that one of them is misspelt.) */
export function requireFlags<T extends object>(flags: T, ...names: (keyof T & string)[]): void {
  const missing = names.filter((name) => flags[name] === undefined);
  if (missing.length === 0) return;
  const list = missing.map((name) => `--${kebab(name)}`).join(', ');
  throw new ShardloopError('BAD_CONFIG', `${list} ${missing.length > 1 ? 'are' : 'is'} required; see --help`);
}
