// Checks of arguments that several functions of core share: shapes and options objects.
import { describe, ShardloopError } from './errors.js';

/** `shape` when it is an array of sizes whose product is exact; else BAD_ARGUMENT that begins with `name`. */
export function checkShape(name: string, shape: unknown): number[] {
  const valid = Array.isArray(shape) && shape.every((size) => Number.isSafeInteger(size) && size >= 0);
  if (!valid) {
    const received = Array.isArray(shape) ? `[${shape.map(describe).join(', ')}]` : describe(shape);
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `${name}: expected a shape, an array of integers >= 0, received ${received}`,
    );
  }
  const sizes = shape as number[];
  if (!Number.isSafeInteger(sizes.reduce((product, size) => product * size, 1))) {
    throw new ShardloopError(
      'BAD_ARGUMENT',
      `${name}: expected a shape of at most 2^53 elements, received [${sizes.join(', ')}]`,
    );
  }
  return sizes;
}

/** Refuses anything but undefined or a plain object whose keys are all `known`, with the nearest name. */
export function checkOptions(name: string, options: unknown, known: readonly string[]): void {
  if (options !== undefined) requireOptions(name, options, known);
}

/** As {@link checkOptions}, where there must be options; without `known` the keys may be any. */
export function requireOptions(name: string, options: unknown, known?: readonly string[]): void {
  if (typeof options !== 'object' || options === null || Array.isArray(options)) {
    throw new ShardloopError('BAD_ARGUMENT', `${name}: expected an options object, received ${describe(options)}`);
  }
  if (known === undefined) return;
  for (const key in options) if (!known.includes(key)) throw unknownOption(name, key, known);
}

/** The error for an option that does not exist. */
export function unknownOption(name: string, key: string, known: readonly string[]): ShardloopError {
  const near = nearest(key, known);
  const hint = near === null ? '' : `; did you mean '${near}'?`;
  const list = known.length === 0 ? 'it takes none' : `known are ${known.join(', ')}`;
  return new ShardloopError('BAD_ARGUMENT', `${name}: unknown option '${key}'${hint} (${list})`);
}

/** The one of `names` that is closest to `word`, or null when none is close. */
export function nearest(word: string, names: readonly string[]): string | null {
  const plain = (text: string): string => text.replace(/[-_]/g, '').toLowerCase();
  let best: string | null = null;
  let least = Math.max(2, Math.floor(word.length / 3)) + 1;
  for (const name of names) {
    const distance = editDistance(plain(word), plain(name));
    if (distance < least) {
      least = distance;
      best = name;
    }
  }
  return best;
}

function editDistance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++) {
      const cost = a[i - 1] === b[j - 1] ? 0 : 1;
      next.push(Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + cost));
    }
    row = next;
  }
  return row[b.length]!;
}
