// How set-up tells what it is doing: one line a step on stderr, and a line that is rewritten on a terminal.
// Not here: training's progress bars (lib/train/progress.ts).

/** What set-up writes to; every line goes to stderr so that stdout stays free for results. */
export interface Report {
  /** A step begins or a fact is known: one line. */
  line(text: string): void;
  /** A step moves on; rewritten in place on a terminal, and printed now and then elsewhere. */
  tick(text: string): void;
}

/** A report on stderr. */
export function stderrReport(stream: NodeJS.WriteStream = process.stderr): Report {
  let open = false;
  let last = 0;
  const close = () => {
    if (open) stream.write('\n');
    open = false;
  };
  return {
    line(text) {
      close();
      stream.write(`[setup] ${text}\n`);
    },
    tick(text) {
      if (stream.isTTY) {
        const width = (stream.columns || 100) - 10;
        stream.write(`\r\x1b[K[setup]   ${text.slice(0, width)}`);
        open = true;
      } else if (Date.now() - last > 5000) {
        last = Date.now();
        stream.write(`[setup]   ${text}\n`);
      }
    },
  };
}

/** A report that says nothing. */
export const silentReport: Report = { line() {}, tick() {} };

/** Bytes for a person: `542 MB`. */
export function megabytes(bytes: number): string {
  return `${(bytes / 1e6).toFixed(bytes < 1e7 ? 1 : 0)} MB`;
}

/** Seconds since `start` (milliseconds of Date.now) for a person: `12 s`. */
export function since(start: number): string {
  const seconds = (Date.now() - start) / 1000;
  return seconds < 10 ? `${seconds.toFixed(1)} s` : `${seconds.toFixed(0)} s`;
}
