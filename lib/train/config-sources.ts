// Where the value of an option comes from: flag > environment > config file > DeepSpeed config > default. Refuses unknown keys of a file
// and near misses among the SHARDLOOP_ variables. Does not know what the options mean (config.ts does).
import { readFileSync } from 'node:fs';
import { parse as parseYaml } from 'yaml';
import type { z } from 'zod';
import { describe, ShardloopError } from '../core/errors.js';
import { camel, forCommand, kebab, nameOf } from '../core/option-names.js';
import { readEnvironment } from '../dist/environment.js';
import { type ConfigSchema, finetuneSchema, planSchema, pretrainSchema } from './config.js';
import { readDeepSpeed } from './deepspeed.js';
import { nearest } from './nearest.js';

export type Source = 'flag' | 'env' | 'file' | 'deepspeed' | 'default';
export interface Resolved<T> {
  config: T;
  /** Where each key's value came from. */
  sources: Record<string, Source>;
}

export interface Given {
  /** Values of flags by key (camelCase); strings are converted to the key's type. */
  flags?: Record<string, unknown>;
  env?: Record<string, string | undefined>;
  /** Path of a YAML or JSON file. */
  file?: string;
}

/** SHARDLOOP_ variables that are no option of a training run. */
const OTHER_VARIABLES = new Set([
  'LIBTORCH',
  'CACHE',
  'CACHE_DIR',
  'ADDON',
  'PYTHON',
  'CUDA',
  'DEBUG',
  'LAUNCH_ID',
  'FAILURE_FILE',
]);

/** The option's type under its defaults: what a flag or variable must be converted to. */
export function baseType(field: z.ZodType): { type: string; options: string[]; takesNumber: boolean } {
  let inner = field as unknown as {
    def: { type: string; innerType?: z.ZodType; options?: z.ZodType[]; entries?: object; values?: string[] };
  };
  while (inner.def.innerType) inner = inner.def.innerType as unknown as typeof inner;
  const members = (inner.def.options ?? []).map((option) => baseType(option));
  return {
    type: inner.def.type,
    options: [
      ...Object.keys(inner.def.entries ?? {}),
      ...(inner.def.values ?? []),
      ...members.flatMap((member) => member.options),
    ],
    takesNumber: inner.def.type === 'number' || members.some((member) => member.takesNumber),
  };
}

export const variable = (key: string) => `SHARDLOOP_${kebab(key).replace(/-/g, '_').toUpperCase()}`;

/**
 * Resolve and check all options at once.
 * @throws ShardloopError BAD_CONFIG naming every option that is wrong, where it came from and what was expected.
 */
export function resolveConfig<S extends ConfigSchema>(schema: S, given: Given): Resolved<z.infer<S>> {
  const keys = Object.keys(schema.shape);
  const problems: string[] = [];
  const values: Record<string, unknown> = {};
  const sources: Record<string, Source> = Object.fromEntries(keys.map((key) => [key, 'default' as const]));
  const take = (source: Source, key: string, value: unknown) => {
    values[key] = typeof value === 'string' ? fromText(fieldOf(schema, key), value) : value;
    sources[key] = source;
  };

  const spellings = new Map<string, string>();
  for (const [name, value] of Object.entries(given.file ? readConfigFile(given.file) : {})) {
    const key = camel(name);
    const other = spellings.get(key);
    spellings.set(key, name);
    if (other !== undefined)
      problems.push(`${given.file} holds both ${other} and ${name}, which are one option; keep one`);
    if (!keys.includes(key)) problems.push(`unknown key ${name} in ${given.file}${meant(name, keys)}`);
    else if (value !== null) take('file', key, value);
  }
  for (const key of keys) {
    const value = given.env?.[variable(key)];
    if (value !== undefined && value !== '') take('env', key, value);
  }
  problems.push(...misspeltVariables(given.env ?? {}));
  for (const [name, value] of Object.entries(given.flags ?? {})) {
    if (value === undefined) continue;
    if (!keys.includes(name)) problems.push(`unknown option ${nameOf(name)}${meant(name, keys)}`);
    else take('flag', name, value);
  }

  if (typeof values.deepspeed === 'string' && keys.includes('deepspeed')) {
    const number = (key: string) => (typeof values[key] === 'number' ? (values[key] as number) : undefined);
    const [microBatch, gradAccum, maxSteps] = ['microBatch', 'gradAccum', 'maxSteps'].map(number);
    const launched = readEnvironment();
    const world = launched.source === 'none' ? (number('nproc') ?? 1) : launched.size;
    const found = readDeepSpeed(values.deepspeed, { world, microBatch, gradAccum, maxSteps });
    problems.push(...found.problems);
    for (const [key, value] of Object.entries(found.values))
      if (values[key] === undefined) take('deepspeed', key, value);
  }

  const parsed = schema.safeParse(values);
  for (const issue of parsed.error?.issues ?? []) {
    const key = String(issue.path[0] ?? '');
    if (values[key] === undefined) problems.push(`${nameOf(key)} is required: ${purposeOf(fieldOf(schema, key))}`);
    else
      problems.push(
        `${spelt(key, sources[key]!, sources[key] === 'deepspeed' ? String(values.deepspeed) : given.file)}: ${expectation(fieldOf(schema, key), issue.message)}, received ${show(values[key])}`,
      );
  }
  if (problems.length > 0) throw new ShardloopError('BAD_CONFIG', problems.join('\n'));
  return { config: parsed.data as z.infer<S>, sources };
}

const fieldOf = (schema: ConfigSchema, key: string) => (schema.shape as Record<string, z.ZodType>)[key]!;

/** What came, in full where JSON says just that: a date, say, would look like a text. */
function show(value: unknown): string {
  try {
    return isJson(value) ? JSON.stringify(value) : describe(value);
  } catch {
    return describe(value); // a circle
  }
}

function isJson(value: unknown): boolean {
  if (value === null || Number.isFinite(value) || ['string', 'boolean'].includes(typeof value)) return true;
  if (Array.isArray(value)) return Array.from(value as unknown[]).every(isJson);
  if (typeof value !== 'object') return false;
  return Object.getPrototypeOf(value) === Object.prototype && Object.values(value).every(isJson);
}

/** What an option is for, without the word that it must be given. */
const purposeOf = ({ description = '' }: z.ZodType) => description.replace(/ \(required\)$/, '');

/** How the user wrote the option. */
function spelt(key: string, source: Source, file?: string): string {
  if (source === 'env') return variable(key);
  return source === 'file' || source === 'deepspeed' ? `${key} in ${file}` : nameOf(key);
}

function meant(name: string, candidates: string[]): string {
  const near = nearest(name, candidates);
  return near ? `; did you mean ${near}?` : forCommand('; see --help for the list', '; docs/options.md lists them');
}

const KINDS: Record<string, string> = { number: 'number', string: 'text', int: 'whole number' };
const BOUNDS: Record<string, string> = { '>=': 'of at least', '<=': 'of at most', '>': 'above', '<': 'below' };

function expectation(field: z.ZodType, message: string): string {
  const { options, takesNumber, type } = baseType(field);
  if (type === 'enum') return `expected one of ${options.join(', ')}`;
  if (type === 'union' && options.length > 0)
    return `expected ${options.join(', ')}${takesNumber ? ' or a number' : ''}`;
  if (type === 'union') return 'expected a text or a list of texts, and no empty one';
  if (message.startsWith('Too small: expected string')) {
    return `expected a text that is not empty${field.safeParse(undefined).success ? ', or to be left out' : ''}`;
  }
  return message
    .replace(/^(Invalid input|Too small|Too big): /, '')
    .replace(/, received .*$/, '') // what came follows, as it was written
    .replace(/^expected (number|string|int)\b( to be)?/, (_, kind: string) => `expected a ${KINDS[kind]}`)
    .replace('expected boolean', 'expected true or false')
    .replace(/ (>=|<=|>|<)(\S+)/, (_, sign: string, bound: string) => ` ${BOUNDS[sign]} ${bound}`);
}

/** A flag's or variable's text as the type that the option has; text that does not fit stays text, and zod refuses it. */
function fromText(field: z.ZodType, text: string): unknown {
  const { type, takesNumber } = baseType(field);
  if (takesNumber && /^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(text.trim())) return Number(text);
  if (type === 'boolean' && /^(true|yes|on|1)$/i.test(text)) return true;
  if (type === 'boolean' && /^(false|no|off|0)$/i.test(text)) return false;
  return text;
}

function misspeltVariables(env: Record<string, string | undefined>): string[] {
  const known = [finetuneSchema, pretrainSchema, planSchema]
    .flatMap((schema) => Object.keys(schema.shape))
    .map(variable);
  return Object.keys(env)
    .filter((name) => name.startsWith('SHARDLOOP_') && !known.includes(name))
    .filter((name) => !OTHER_VARIABLES.has(name.slice('SHARDLOOP_'.length)))
    .flatMap((name) => {
      const near = nearest(name, known, name.length > 'SHARDLOOP_'.length + 5 ? 2 : 1);
      return near ? [`unknown variable ${name}; did you mean ${near}?`] : [];
    });
}

function readConfigFile(path: string): Record<string, unknown> {
  let content: unknown;
  try {
    content = parseYaml(readFileSync(path, 'utf8'), { logLevel: 'error' }); // JSON is YAML
  } catch (cause) {
    const reason = (cause as NodeJS.ErrnoException).code === 'ENOENT' ? 'no such file' : (cause as Error).message;
    throw new ShardloopError('BAD_CONFIG', `cannot read the config file ${path}: ${reason}`, { cause });
  }
  if (content === null || content === undefined) return {};
  if (typeof content !== 'object' || Array.isArray(content)) {
    throw new ShardloopError(
      'BAD_CONFIG',
      `${path}: expected keys and values (YAML or JSON), received ${show(content)}`,
    );
  }
  return content as Record<string, unknown>;
}
