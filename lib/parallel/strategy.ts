// What a way of spreading a model does around each segment. Replication, sharding and offload are implementations; the
// loop that calls them in plain sight is segments.ts.

/** Called by the segment loop, always with the index of a segment, on every rank in the same order. */
export interface Strategy {
  /** Segment k is about to run, forward or backward: make its parameters whole. May start to fetch a neighbour's too. */
  gather(k: number): void;
  /** Segment k has run: what gather(k) fetched may go. */
  release(k: number): void;
  /** The gradients of segment k are complete for this step: start to combine them with those of the other ranks. */
  reduce(k: number): void;
  /** Waits for all that reduce() began; then every parameter's gradient is that of the global batch. */
  finish(): Promise<void>;
}

/** The strategy of a single rank: all parameters are always here, and every gradient is already global. */
export const alone: Strategy = {
  gather() {},
  release() {},
  reduce() {},
  async finish() {},
};
