// What a group has sent: for each kind of operation how often, how many bytes, and how many of them crossed the wire. Also
// nccl-tests' two conventions, which everything that counts bytes shares: the size of an operation, and the bus factor.

/** The kinds of operation, as nccl-tests and the records name them. */
export type Collective =
  | 'all_reduce'
  | 'all_gather'
  | 'all_gather_uneven'
  | 'reduce_scatter'
  | 'broadcast'
  | 'reduce'
  | 'all_to_all'
  | 'gather'
  | 'scatter'
  | 'send'
  | 'receive'
  | 'barrier';

/** How often a kind of operation was launched, and its bytes. */
export interface Traffic {
  count: number;
  /** The sum of the operations' sizes: of the tensor, or for gathers and scatters of the whole that all ranks hold. */
  bytes: number;
  /** What the busiest link of each rank carries in one direction, for the best known algorithm. */
  busBytes: number;
}

/**
 * nccl-tests' factor from algorithm to bus bandwidth on `ranks` ranks: the share of an operation's size that crosses the
 * busiest link of a rank.
 */
export function busFactor(operation: Collective, ranks: number): number {
  switch (operation) {
    case 'all_reduce':
      return (2 * (ranks - 1)) / ranks;
    case 'all_gather':
    case 'all_gather_uneven':
    case 'reduce_scatter':
    case 'all_to_all':
    case 'gather':
    case 'scatter':
      return (ranks - 1) / ranks;
    case 'barrier':
      return 0;
    default:
      return ranks > 1 ? 1 : 0;
  }
}

/** Adds one operation of `bytes` to the counts. */
export function count(traffic: Map<Collective, Traffic>, operation: Collective, bytes: number, ranks: number): void {
  let entry = traffic.get(operation);
  if (entry === undefined) {
    entry = { count: 0, bytes: 0, busBytes: 0 };
    traffic.set(operation, entry);
  }
  entry.count += 1;
  entry.bytes += bytes;
  entry.busBytes += bytes * busFactor(operation, ranks);
}
