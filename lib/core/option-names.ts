// How an option is named to who reads the message: as a flag (--lora-rank) by a command, as a key (loraRank) to a program.
// Messages are written with flags; what a program gets is spelt here. Not here: which options there are (train/config.ts).
import { AsyncLocalStorage } from 'node:async_hooks';

/** Set while a command runs, and in what it awaits: not for what else goes on in the process. */
const command = new AsyncLocalStorage<true>();
let isWholeProcess = false;
const toCommand = () => isWholeProcess || command.getStore() === true;

/** Runs a command; the messages of it, and of all that it calls and awaits, name options as flags. */
export const nameAsFlags = <T>(run: () => T): T => (isWholeProcess ? run() : command.run(true, run));

/** This process is a command and nothing else: following what it awaits would cost each promise (reading records takes half as long again). */
export function processIsCommand(): void {
  isWholeProcess = true;
}

/** What a command shows one word of, and a program another. */
export const forCommand = (words: string, program: string) => (toCommand() ? words : program);

export const kebab = (key: string) => key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
export const camel = (key: string) => key.replace(/[-_]([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());

/** An option by its key. */
export const nameOf = (key: string) => forCommand(`--${kebab(key)}`, key);

/** So many ranks, in words. */
export const ranksOf = (count: number) => `${count} ${count === 1 ? 'rank' : 'ranks'}`;

/** A text that is written with flags. */
export const named = (text: string) =>
  toCommand() ? text : text.replace(/--([a-z][a-z0-9]*(?:-[a-z0-9]+)*)/g, (_, flag: string) => camel(flag));

/** A message that is written with flags, as a template; the values in it stay as they are. */
export function words(parts: TemplateStringsArray, ...values: readonly unknown[]): string {
  return parts.map((part, i) => named(part) + (i < values.length ? String(values[i]) : '')).join('');
}
