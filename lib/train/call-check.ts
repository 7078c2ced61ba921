// What a program hands to a function that a command calls, too: the command has checked its flags, a program nothing. The messages
// name the function and the option.
import { describe, ShardloopError } from '../core/errors.js';
import { checkOptions } from '../core/options.js';

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
  checkOptions(name, options ?? null, [...texts, ...Object.keys(choices), ...others]);
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
