// JavaScript values over a group's collectives: serialized by Node's structured format into bytes, their length first.
// For small things (names, configurations, metrics); tensors go by themselves.
import { deserialize, serialize } from 'node:v8';
import { ShardloopError, type Tensor, tensor, zeros } from '../core/index.js';
import { checkRank, misuse } from './checks.js';
import { allGather, broadcast, usable, type Wire } from './collectives.js';

/** The value of `root`, on every rank. */
export async function broadcastObject<T>(wire: Wire, device: string, value: T, root: number): Promise<T> {
  usable(wire, 'broadcastObject');
  checkRank(wire, 'broadcastObject', 'root', root);
  if (wire.size === 1) return value;
  const mine = wire.rank === root ? encode(wire, 'broadcastObject', value) : new Uint8Array(0);
  const length = tensor(BigInt64Array.of(BigInt(mine.length)), { device });
  await broadcast(wire, length, root).done();
  const count = Number((await length.data())[0]);
  length.dispose();
  const bytes = wire.rank === root ? tensor(mine, { device }) : zeros([count], { dtype: 'uint8', device });
  await broadcast(wire, bytes, root).done();
  const received = (await bytes.data()) as Uint8Array;
  bytes.dispose();
  return wire.rank === root ? value : (deserialize(received) as T);
}

/** Every rank's value, in the order of the ranks, on every rank. */
export async function allGatherObject<T>(wire: Wire, device: string, value: T): Promise<T[]> {
  usable(wire, 'allGatherObject');
  if (wire.size === 1) return [value];
  const mine = encode(wire, 'allGatherObject', value);
  const lengths = await gathered(wire, tensor(BigInt64Array.of(BigInt(mine.length)), { device }), device);
  const counts = Array.from(lengths as BigInt64Array, Number);
  const longest = Math.max(...counts);
  const padded = new Uint8Array(longest);
  padded.set(mine);
  const bytes = (await gathered(wire, tensor(padded, { device }), device)) as Uint8Array;
  return counts.map((count, rank) => deserialize(bytes.subarray(rank * longest, rank * longest + count)) as T);
}

async function gathered(wire: Wire, input: Tensor, device: string) {
  const output = zeros([input.numel * wire.size], { dtype: input.dtype, device });
  await allGather(wire, output, input).done();
  const data = await output.data();
  input.dispose();
  output.dispose();
  return data;
}

function encode(wire: Wire, operation: string, value: unknown): Uint8Array {
  try {
    return new Uint8Array(serialize(value));
  } catch (cause) {
    const reason = cause instanceof Error ? cause.message : String(cause);
    const error = misuse(
      wire,
      operation,
      `expected a value that can be serialized (data, no functions or tensors): ${reason}`,
    );
    throw new ShardloopError(error.code, error.message, { cause });
  }
}
