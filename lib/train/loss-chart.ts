// Draws loss.svg from the metrics of a run. vega is loaded only when a chart is drawn: it takes longer to load than to
// draw. Not a sink: it reads what metrics.jsonl holds.
import type { TopLevelSpec } from 'vega-lite';
import { writeFileAtomic } from '../io/atomic.js';
import { readMetrics, type StepMetrics } from './metrics.js';

/** Draw `metricsFile` into `svgFile`: every step's loss, a smoothed line, and evaluations. Nothing without steps. */
export async function drawLoss(metricsFile: string, svgFile: string, title: string): Promise<void> {
  const metrics = readMetrics(metricsFile).filter((m) => Number.isFinite(m.loss));
  if (metrics.length > 0) await writeFileAtomic(svgFile, await lossChart(metrics, title));
}

/** The chart as SVG text. */
export async function lossChart(metrics: StepMetrics[], title: string): Promise<string> {
  const [{ compile }, vega] = await Promise.all([import('vega-lite'), import('vega')]);
  const view = new vega.View(vega.parse(compile(lossSpec(metrics, title)).spec), { renderer: 'none' });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

const SERIES = { step: '#b8c7dc', smoothed: '#1f5fa8', evaluation: '#d1622b' };

function lossSpec(metrics: StepMetrics[], title: string): TopLevelSpec {
  const names = Object.keys(SERIES);
  const color = {
    field: 'series',
    type: 'nominal',
    title: null,
    scale: { domain: names, range: Object.values(SERIES) },
  } as const;
  const encoding = (field: string) =>
    ({
      x: { field: 'step', type: 'quantitative', title: 'step', scale: { nice: false, zero: false } },
      y: { field, type: 'quantitative', title: 'loss (nats a token)', scale: { zero: false } },
      color,
    }) as const;
  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title,
    width: 640,
    height: 320,
    background: 'white',
    data: { values: thin(smooth(metrics)) },
    layer: [
      {
        transform: [{ calculate: "'step'", as: 'series' }],
        mark: { type: 'line', strokeWidth: 1 },
        encoding: encoding('loss'),
      },
      {
        transform: [{ calculate: "'smoothed'", as: 'series' }],
        mark: { type: 'line', strokeWidth: 2 },
        encoding: encoding('smoothed'),
      },
      {
        transform: [{ filter: 'isValid(datum.evalLoss)' }, { calculate: "'evaluation'", as: 'series' }],
        mark: { type: 'line', point: true, strokeWidth: 1.5 },
        encoding: encoding('evalLoss'),
      },
    ],
  };
}

type Point = { step: number; loss: number; smoothed: number; evalLoss?: number };

/** Exponential mean with the bias of its start divided out. */
function smooth(metrics: StepMetrics[]): Point[] {
  const keep = Math.max(0, Math.min(0.95, 1 - 20 / metrics.length));
  let sum = 0;
  let weight = 0;
  return metrics.map(({ step, loss, evalLoss }) => {
    sum = keep * sum + (1 - keep) * loss;
    weight = keep * weight + (1 - keep);
    return { step, loss, smoothed: sum / weight, evalLoss };
  });
}

/** At most about 2,000 points, so that a long run's file stays small; evaluations and the last step always stay. */
function thin(points: Point[]): Point[] {
  const every = Math.ceil(points.length / 2000);
  return points.filter((point, i) => i % every === 0 || point.evalLoss !== undefined || i === points.length - 1);
}
