// A mesh: the ranks of a group laid out along named axes, such as { replicate: 2, shard: 4 }, with a group along each axis.
// The last axis varies fastest, so that its groups hold neighbouring ranks: put what communicates most there.
import { describe, ShardloopError } from '../core/index.js';
import { misuse } from './checks.js';
import { usable } from './collectives.js';
import { type SubgroupOptions, subgroup } from './create-group.js';
import { type Group, internals } from './group.js';

/** The sizes of a mesh by the names of its axes, in order. */
export type MeshShape = Readonly<Record<string, number>>;

/** Ranks along named axes; see {@link mesh}. */
export class Mesh<Shape extends MeshShape = MeshShape> {
  /** The size of each axis, in order. */
  readonly shape: Shape;
  /** This rank's place along each axis. */
  readonly coordinates: { readonly [Axis in keyof Shape]: number };
  readonly #groups: ReadonlyMap<string, Group>;

  /** Internal: meshes come from mesh(). */
  constructor(shape: Shape, coordinates: Record<string, number>, groups: ReadonlyMap<string, Group>) {
    this.shape = shape;
    this.coordinates = coordinates as { readonly [Axis in keyof Shape]: number };
    this.#groups = groups;
  }

  /** The ranks that differ from this one along `axis` only. Throws BAD_ARGUMENT for an axis that the mesh does not have. */
  group(axis: keyof Shape & string): Group {
    const found = this.#groups.get(axis);
    if (found !== undefined) return found;
    const axes = Object.keys(this.shape).join(', ');
    throw new ShardloopError('BAD_ARGUMENT', `mesh: expected one of the axes ${axes}, received ${describe(axis)}`);
  }

  /** Closes the groups of all axes. */
  async destroy(): Promise<void> {
    for (const group of this.#groups.values()) await group.destroy();
  }
}

/**
 * Lays the ranks of `group` out along named axes and opens a group along each. Every rank of the group must call it with
 * the same shape. Throws BAD_ARGUMENT when the sizes do not multiply to the group's, and as {@link subgroup}.
 */
export async function mesh<Shape extends MeshShape>(
  group: Group,
  shape: Shape,
  options: Omit<SubgroupOptions, 'name'> = {},
): Promise<Mesh<Shape>> {
  const { wire } = internals(group);
  usable(wire, 'mesh');
  const axes = Object.entries(shape ?? {});
  const isShape = axes.length > 0 && axes.every(([, size]) => Number.isInteger(size) && size >= 1);
  const total = axes.reduce((product, [, size]) => product * size, 1);
  if (!isShape || total !== group.size) {
    const received = axes.map(([axis, size]) => `${axis}: ${size}`).join(', ');
    throw misuse(
      wire,
      'mesh',
      `expected sizes of axes that multiply to its ${group.size} ranks, received { ${received} }`,
    );
  }
  const coordinates: Record<string, number> = {};
  const strides = new Map<string, number>();
  let stride = group.size;
  for (const [axis, size] of axes) {
    stride /= size;
    strides.set(axis, stride);
    coordinates[axis] = Math.floor(group.rank / stride) % size;
  }
  const groups = new Map<string, Group>();
  for (const [axis, size] of axes) {
    const step = strides.get(axis)!;
    const first = group.rank - coordinates[axis]! * step;
    const ranks = Array.from({ length: size }, (_, i) => first + i * step);
    groups.set(axis, await subgroup(group, ranks, { ...options, name: axis }));
  }
  return new Mesh(shape, coordinates, groups);
}
