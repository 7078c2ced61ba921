// Several optimizers as one, each for parameters of its own: Muon for matrices and AdamW for the rest.
import { describe, ShardloopError, type Tensor } from '../core/index.js';
import type { Group } from './groups.js';
import type { Optimizer, OptimizerState, PlainValue, StepOptions } from './optimizer.js';

/** An {@link Optimizer} that steps each of its members. Their parameters have different names. */
export class Combined implements Optimizer {
  readonly members: readonly Optimizer[];

  constructor(members: readonly Optimizer[]) {
    this.members = members;
    const names = this.groups.flatMap((group) => group.names);
    const twice = names.find((name, i) => names.indexOf(name) !== i);
    if (twice !== undefined) {
      throw new ShardloopError('BAD_ARGUMENT', `Combined: expected each name once, received "${twice}" twice`);
    }
  }

  get groups(): readonly Group<{ lr: number }>[] {
    return this.members.flatMap(({ groups }) => groups);
  }

  prepare(): void {
    for (const member of this.members) member.prepare();
  }

  step(options: StepOptions = {}): void {
    for (const member of this.members) member.step(options);
  }

  zeroGrad(): void {
    for (const member of this.members) member.zeroGrad();
  }

  stateDict(): OptimizerState {
    const states = this.members.map((member) => member.stateDict());
    return {
      tensors: new Map(states.flatMap(({ tensors }) => [...tensors])),
      values: { kind: 'Combined', members: states.map(({ values }) => values) as unknown as PlainValue },
    };
  }

  loadStateDict({ tensors, values }: OptimizerState): void {
    const { kind, members } = values as { kind?: unknown; members?: OptimizerState['values'][] };
    if (kind !== 'Combined' || !Array.isArray(members) || members.length !== this.members.length) {
      const expected = `the state of ${this.members.length} combined optimizers`;
      throw new ShardloopError(
        'BAD_ARGUMENT',
        `Combined.loadStateDict: expected ${expected}, received that of ${describe(kind)}`,
      );
    }
    for (const [i, member] of this.members.entries()) {
      const own = new Set(member.groups.flatMap(({ names }) => names));
      const belongs = ([key]: [string, Tensor]) => own.has(key.slice(0, key.lastIndexOf('.')));
      member.loadStateDict({ tensors: new Map([...tensors].filter(belongs)), values: members[i]! });
    }
  }

  dispose(): void {
    for (const member of this.members) member.dispose();
  }
}
