// What a program hands to a function that a command calls, too: the command has checked its flags, a program nothing. The messages
// name the function and the option.
import { describe, ShardloopError } from '../core/errors.js';
import { checkOptions, requireOptions } from '../core/options.js';
import type { RunOptions } from './run.js';

/** What an option takes; the ones that are not `required` may be absent. */
interface Expected {
  readonly texts: readonly string[];
  readonly required: readonly string[];
  /** Options that are one of a few words. */
  readonly choices?: Readonly<Record<string, readonly string[]>>;
  /** Options that somebody else checks. */
  readonly others: readonly string[];
}

/** BAD_ARGUMENT for what is no options object, has an unknown key, lacks a required one, or holds no text where one belongs. */
export function checkCall(name: string, options: unknown, { texts, required, choices = {}, others }: Expected): void {
  requireOptions(name, options, [...texts, ...Object.keys(choices), ...others]);
  const given = options as Readonly<Record<string, unknown>>;
  const refuse = (key: string, expected: string) => {
    throw new ShardloopError('BAD_ARGUMENT', `${name}: ${key}: expected ${expected}, received ${describe(given[key])}`);
  };
  for (const key of texts) {
    const value = given[key];
    if (value === undefined ? required.includes(key) : typeof value !== 'string') refuse(key, 'a text');
  }
  for (const [key, words] of Object.entries(choices)) {
    const value = given[key];
    if (value === undefined || words.includes(value as string)) continue;
    refuse(key, `one of ${words.join(', ')}`);
  }
}

const has = (value: unknown, ...methods: string[]) =>
  methods.every((name) => typeof (value as Record<string, unknown> | null)?.[name] === 'function');

/** What {@link RunOptions} takes: in words, and whether a value is that. */
const RUN_OPTIONS: Record<keyof RunOptions, [expected: string, fits: (value: unknown) => boolean]> = {
  signal: ['an AbortSignal', (value) => has(value, 'addEventListener', 'removeEventListener')],
  dryRun: ['true or false', (value) => typeof value === 'boolean'],
  progress: ['a stream to write to, such as process.stderr', (value) => has(value, 'write')],
  onPhase: ['a function', (value) => typeof value === 'function'],
  sinks: ['an array of metrics sinks', (value) => Array.isArray(value)],
  group: ['a group of ranks', (value) => has(value, 'allReduce', 'broadcastObject')],
};

/** BAD_ARGUMENT unless `config` is an object; `what` are its options. */
export function requireConfig(name: string, config: unknown, what: string): void {
  if (typeof config === 'object' && config !== null && !Array.isArray(config)) return;
  const expected = `expected an object with the options ${what}`;
  throw new ShardloopError('BAD_ARGUMENT', `${name}: ${expected}, received ${describe(config)}`);
}

/** BAD_ARGUMENT unless a run is called with an object of options, and with what {@link RunOptions} takes. What `config` holds is not looked at. */
export function checkRunCall(name: 'finetune' | 'pretrain', config: unknown, options: unknown): void {
  requireConfig(`${name}: the first argument`, config, 'of the run, such as { data, out }');
  for (const key of Object.keys(RUN_OPTIONS)) {
    const value = (config as Record<string, unknown>)[key];
    if (value === undefined) continue;
    const place = `expected ${key} in the second argument, as in ${name}({ data, out }, { ${key} })`;
    throw new ShardloopError('BAD_ARGUMENT', `${name}: ${place}; received it in the first, with ${describe(value)}`);
  }
  const second = `${name}: the second argument`;
  checkOptions(second, options, Object.keys(RUN_OPTIONS));
  for (const [key, [expected, fits]] of Object.entries(RUN_OPTIONS)) {
    const value = (options as Record<string, unknown>)[key];
    if (value === undefined || fits(value)) continue;
    throw new ShardloopError('BAD_ARGUMENT', `${second}: ${key}: expected ${expected}, received ${describe(value)}`);
  }
}
