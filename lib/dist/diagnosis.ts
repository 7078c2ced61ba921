// From a failure on the wire to an error that names what happened: which ranks arrived at the operation, which did not and
// what they did last, and which rank failed first. What each rank says of itself comes from native/monitor.cc.
import { raw } from '../core/binding.js';
import { ShardloopError } from '../core/errors.js';
import { inWorld, type Member, opening, plain } from './checks.js';

/** An operation of a rank as its record says: number, name, shapes, state, ms since its launch, between two ranks. */
type Operation = [number, string, string, 'running' | 'done' | 'failed', number, boolean];

/** What a rank says of itself. */
export interface Status {
  /** Whether it answered just now. A rank whose JavaScript is stuck still answers; a dead or stopped one does not. */
  readonly alive: boolean;
  /** It closed the group. */
  readonly left: boolean;
  /** How many collectives it has launched. */
  readonly launched: number;
  /** The last ones, oldest first. */
  readonly operations: readonly Operation[];
}

/** The first failure of a group, as the ranks tell each other. */
interface Failure {
  readonly rank: number;
  readonly text: string;
}

/** An operation that failed here. */
export interface FailedOperation {
  /** 'all_reduce (sum)', as the record has it. */
  readonly name: string;
  /** Its number; 0 for one between two ranks. */
  readonly number: number;
  readonly shapes: string;
}

/**
 * The error for a failure of `operation` on the native group `id`. Tells the other ranks, and asks them what they did:
 * takes about half a second.
 */
export function collectiveFailure(
  member: Member,
  id: number,
  operation: FailedOperation,
  text: string,
): ShardloopError {
  const { name, number, shapes } = operation;
  const numbered = number > 0 ? `${name} #${number}` : name;
  const elsewhere = parseFailure(text);
  const detail = plain(text);
  const mine: Failure = { rank: member.rank, text: `${numbered}${shapes && ` of ${shapes}`}: ${detail}` };
  const first = elsewhere ?? parseFailure(raw('shardloop::group_fail', id, JSON.stringify(mine)) as string);
  const statuses = (raw('shardloop::group_ask', id) as readonly string[]).map(parseStatus);
  const reason =
    first !== null && first.rank !== member.rank
      ? `rank ${inWorld(member, first.rank)} failed first, in ${first.text}`
      : detail;
  const sentences = [reason, ...whoArrived(member, operation, statuses), advice(text, first ?? mine)];
  return new ShardloopError(
    'COLLECTIVE_FAILED',
    `${opening(member, numbered)}${shapes && ` of ${shapes}`} failed: ${sentences.join('. ')}`,
  );
}

/** One status of shardloop::group_ask; null where nothing is known. */
export function parseStatus(text: string): Status | null {
  if (text === '') return null;
  return { ...(JSON.parse(text.slice(1)) as Omit<Status, 'alive'>), alive: text.startsWith('+') };
}

function parseFailure(text: string): Failure | null {
  if (!text.startsWith('{"rank"')) return null;
  return JSON.parse(text) as Failure;
}

/** Sentences about the ranks: who arrived, who called something else, who did not come and what it did last. */
export function whoArrived(
  member: Member,
  { name, number, shapes }: FailedOperation,
  statuses: readonly (Status | null)[],
): string[] {
  if (member.backend === 'fake') return [];
  if (statuses.length === 0) return ["What the other ranks did is not known: the store's host does not answer"];
  const arrived: number[] = [];
  const sentences: string[] = [];
  for (const [rank, status] of statuses.entries()) {
    const who = inWorld(member, rank);
    if (status === null) sentences.push(`Rank ${who} never opened the group`);
    else if (number > 0 && status.launched >= number) {
      const theirs = status.operations.find(([n, , , , , betweenTwo]) => n === number && !betweenTwo);
      if (theirs === undefined || (theirs[1] === name && theirs[2] === shapes)) arrived.push(who);
      else sentences.push(`Rank ${who} called ${theirs[1]}${theirs[2] && ` of ${theirs[2]}`} as #${number}`);
    } else if (rank !== member.rank) sentences.push(`Rank ${who} ${describeStatus(status, number > 0)}`);
  }
  if (number === 0) return sentences;
  return [arrived.length > 0 ? `Arrived: ${list(arrived)}` : 'No rank is known to have arrived', ...sentences];
}

function describeStatus(status: Status, mustArrive: boolean): string {
  const last = status.operations.at(-1);
  const did =
    last === undefined
      ? 'it had not called anything'
      : `its last operation was ${last[1]} #${last[0]}${last[2] && ` of ${last[2]}`}, ${last[3]}, ` +
        `launched ${(last[4] / 1000).toFixed(1)} s before`;
  const state = status.left
    ? 'has left the group'
    : status.alive
      ? mustArrive
        ? 'is alive and has not arrived'
        : 'is alive'
      : 'does not answer (dead or stopped)';
  return `${state}; ${did}`;
}

function list(ranks: readonly number[]): string {
  return `rank${ranks.length === 1 ? '' : 's'} ${ranks.join(', ')}`;
}

function advice(text: string, first: Failure): string {
  const all = `${text} ${first.text}`;
  if (/timed? ?out/i.test(all)) {
    return 'Every rank must call the same operations in the same order; a rank that needs longer needs a larger timeoutSeconds';
  }
  if (/size doesn't match|preamble|operations of the ranks differ/.test(all)) {
    return 'The ranks differ in shape or dtype; SHARDLOOP_DEBUG=collectives compares them before each operation';
  }
  if (/connection (closed|reset|refused)|broken pipe|closed by peer|ECONN/i.test(all)) {
    return 'A peer died or left the group: look for the first rank that failed';
  }
  return 'Make a new group before communicating again';
}
