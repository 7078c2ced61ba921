// The numbers behind the tables: percentiles, deviations, and the line t = alpha + S / beta through a sweep.

/** Of one operation at one size: each iteration's time is that of its slowest rank. */
export interface Spread {
  readonly p50Us: number;
  readonly p99Us: number;
  /** The standard deviation over the iterations. */
  readonly stdevUs: number;
}

/** Percentiles by the nearest rank, and the standard deviation of a sample. */
export function spread(timesUs: readonly number[]): Spread {
  const sorted = [...timesUs].sort((a, b) => a - b);
  const at = (part: number) => sorted[Math.max(0, Math.ceil(part * sorted.length) - 1)] ?? Number.NaN;
  const mean = sorted.reduce((sum, t) => sum + t, 0) / sorted.length;
  const squares = sorted.reduce((sum, t) => sum + (t - mean) ** 2, 0);
  return { p50Us: at(0.5), p99Us: at(0.99), stdevUs: Math.sqrt(squares / Math.max(1, sorted.length - 1)) };
}

/** The time of an operation as a latency and a bandwidth. */
export interface Fit {
  readonly alphaUs: number;
  /** GB/s of the operation's size; null when time does not grow with size. */
  readonly betaGBs: number | null;
  /** The median over the points of |fitted - measured| / measured. */
  readonly medianError: number;
}

/**
 * Fits t = alpha + S / beta by least squares of the relative errors, so that small sizes count as much as large ones;
 * neither part becomes negative. Null with fewer than two different sizes.
 */
export function fitLine(points: readonly { readonly bytes: number; readonly timeUs: number }[]): Fit | null {
  const used = points.filter(({ timeUs }) => timeUs > 0);
  if (new Set(used.map(({ bytes }) => bytes)).size < 2) return null;
  // With u = 1 / t and v = S / t the errors are alpha * u + slope * v - 1.
  let [uu, uv, vv, u1, v1] = [0, 0, 0, 0, 0];
  for (const { bytes, timeUs } of used) {
    const [u, v] = [1 / timeUs, bytes / timeUs];
    uu += u * u;
    uv += u * v;
    vv += v * v;
    u1 += u;
    v1 += v;
  }
  const determinant = uu * vv - uv * uv;
  let alphaUs = (u1 * vv - v1 * uv) / determinant;
  let slope = (v1 * uu - u1 * uv) / determinant;
  if (alphaUs < 0) [alphaUs, slope] = [0, v1 / vv];
  else if (slope <= 0) [alphaUs, slope] = [u1 / uu, 0];
  const errors = used
    .map(({ bytes, timeUs }) => Math.abs(alphaUs + slope * bytes - timeUs) / timeUs)
    .sort((a, b) => a - b);
  const middle = errors.length / 2;
  const medianError = (errors[Math.ceil(middle) - 1]! + errors[Math.floor(middle)]!) / 2;
  return { alphaUs, betaGBs: slope === 0 ? null : 1e-3 / slope, medianError };
}

/** The fit as the line that a report prints. */
export function fitText(fit: Fit | null): string {
  if (fit === null) return '# Hypothesis: t = alpha + S/beta needs two sizes or more';
  const beta =
    fit.betaGBs === null ? 'beta = none (time does not grow with size)' : `beta = ${fit.betaGBs.toPrecision(4)} GB/s`;
  return `# Hypothesis: t = alpha + S/beta with alpha = ${fit.alphaUs.toPrecision(4)} us, ${beta}; median relative error ${(100 * fit.medianError).toFixed(1)} %`;
}
