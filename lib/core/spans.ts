// What this thread did when: named spans on the monotonic clock, recorded only while somebody asked for them. They become
// the tracks of a timeline (lib/dist/timeline.ts); a loop marks its phases with span().

/** A stretch of time; nanoseconds of the monotonic clock, as process.hrtime. */
export interface Span {
  /** The track that it is shown on: 'compute', 'wait', or one's own. */
  readonly track: string;
  readonly name: string;
  readonly start: number;
  readonly end: number;
}

let spans: Span[] | null = null;

/** Nanoseconds of the monotonic clock. Exact to about 0.1 us after a day of uptime (a double). */
export function now(): number {
  return Number(process.hrtime.bigint());
}

/** Runs `fn`, as a span of the track while spans are recorded. `index` becomes part of the name. */
export function span<T>(track: string, name: string, index: number | undefined, fn: () => T): T {
  if (spans === null) return fn();
  const start = now();
  try {
    return fn();
  } finally {
    spans.push({ track, name: index === undefined ? name : `${name} ${index}`, start, end: now() });
  }
}

/** Adds a span that has been measured, such as a wait across turns of the event loop. */
export function addSpan(track: string, name: string, start: number): void {
  spans?.push({ track, name, start, end: now() });
}

/** Whether spans are recorded. */
export function isRecordingSpans(): boolean {
  return spans !== null;
}

/** Begins to record, with no spans. */
export function startSpans(): void {
  spans = [];
}

/** Ends the recording and returns its spans, in the order of their ends. */
export function takeSpans(): Span[] {
  const taken = spans ?? [];
  spans = null;
  return taken;
}
