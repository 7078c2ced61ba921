// Bus bandwidth against size as SVG, both places, size on a log axis. vega is loaded only when a chart is drawn.
import type { TopLevelSpec } from 'vega-lite';
import type { BenchResult } from './run.js';

/** The chart of one benchmark as SVG text: a line for each dtype, reduction and root, dashed in place. */
export async function bandwidthChart(result: BenchResult): Promise<string> {
  const [{ compile }, vega] = await Promise.all([import('vega-lite'), import('vega')]);
  const view = new vega.View(vega.parse(compile(specOf(result)).spec), { renderer: 'none' });
  try {
    return await view.toSVG();
  } finally {
    view.finalize();
  }
}

function specOf({ operation, ranks, backend, rows }: BenchResult): TopLevelSpec {
  const values = rows.flatMap(({ size, type, redop, root, outOfPlace, inPlace }) => {
    const series = [type, redop === 'none' ? '' : redop, root < 0 ? '' : `root ${root}`].filter(Boolean).join(' ');
    const points = [{ size, series, place: 'out of place', busbw: outOfPlace.busbw }];
    return inPlace === null ? points : [...points, { size, series, place: 'in place', busbw: inPlace.busbw }];
  });
  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: `${operation}, ${ranks} ranks over ${backend}`,
    width: 640,
    height: 320,
    background: 'white',
    data: { values },
    mark: { type: 'line', point: true },
    encoding: {
      x: {
        field: 'size',
        type: 'quantitative',
        title: 'size (bytes)',
        scale: { type: 'log', base: 2 },
        axis: { format: '.3~s' },
      },
      y: { field: 'busbw', type: 'quantitative', title: 'bus bandwidth (GB/s)' },
      color: { field: 'series', type: 'nominal', title: null },
      strokeDash: { field: 'place', type: 'nominal', title: null, scale: { domain: ['out of place', 'in place'] } },
    },
  };
}
