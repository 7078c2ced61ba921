// The checking mode, SHARDLOOP_DEBUG=collectives: before each collective every rank's operation, number, shapes and dtype
// are compared through the store, and the rank that differs is named before anything hangs. It blocks, and costs a
// round trip to the store for each rank: for finding a fault, not for running.
import { raw } from '../core/binding.js';
import { ShardloopError } from '../core/errors.js';
import { inWorld, type Member, opening, plain } from './checks.js';

/** Whether SHARDLOOP_DEBUG (a list with commas) names `collectives`. */
export function checksAgreement(variables: Readonly<Record<string, string | undefined>> = process.env): boolean {
  return (variables.SHARDLOOP_DEBUG ?? '').split(',').some((mode) => mode.trim() === 'collectives');
}

/**
 * Compares `mine`, such as 'all_reduce (sum) of float32 (3, 4)', with what the other ranks call as their number `number`.
 * Throws COLLECTIVE_MISMATCH naming the ranks that differ, COLLECTIVE_FAILED naming those that do not come in time.
 */
export function agree(member: Member, id: number, number: number, mine: string): void {
  const start = opening(member, `${mine.split(' of ')[0]} #${number}`);
  let texts: readonly string[];
  try {
    texts = raw('shardloop::group_agree', id, number, mine) as readonly string[];
  } catch (error) {
    const text = plain(error instanceof Error ? error.message : String(error));
    throw new ShardloopError('COLLECTIVE_FAILED', `${start} failed: ${text}`);
  }
  const missing = texts.flatMap((text, rank) => (text === '' ? [inWorld(member, rank)] : []));
  const others = texts.flatMap((text, rank) => (text !== '' && text !== mine ? [{ rank, text }] : []));
  if (missing.length === 0 && others.length === 0) return;
  const absent = missing.map((rank) => `rank ${rank}`).join(', ');
  if (others.length > 0) {
    throw new ShardloopError(
      'COLLECTIVE_MISMATCH',
      `${start}: the ranks do not call the same. ${verdict(member, texts)}${absent && `; not here yet: ${absent}`}. Every ` +
        'rank must call the same operations in the same order, with the same shapes and dtypes',
    );
  }
  // Who comes late finds the texts of all, and must not go on alone.
  const failure = { rank: member.rank, text: `${mine}: ${absent} did not arrive within the timeout` };
  raw('shardloop::group_fail', id, JSON.stringify(failure));
  throw new ShardloopError(
    'COLLECTIVE_FAILED',
    `${start} failed: ${absent} did not arrive within the timeout; no more collectives there, or still at work`,
  );
}

/** 'Ranks 0, 2: all_reduce ...; rank 1: broadcast ...': the largest camp first, so that the odd one out stands last. */
export function verdict(member: Member, texts: readonly string[]): string {
  const camps = new Map<string, number[]>();
  for (const [rank, text] of texts.entries()) {
    if (text !== '') camps.set(text, [...(camps.get(text) ?? []), inWorld(member, rank)]);
  }
  return [...camps]
    .sort((a, b) => b[1].length - a[1].length)
    .map(([text, ranks], i) => `${i === 0 ? 'R' : 'r'}ank${ranks.length > 1 ? 's' : ''} ${ranks.join(', ')}: ${text}`)
    .join('; ');
}
