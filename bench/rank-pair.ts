// Contenders of bench/collectives.ts that are several processes: each gets every command on its stdin and answers on its
// stdout; an operation takes as long as on its slowest rank. Between commands all of them sleep.
import { type ChildProcess, spawn } from 'node:child_process';
import { createInterface } from 'node:readline';

/** The processes of one contender. */
export interface Ranks {
  readonly name: string;
  /** Runs `command`, such as `all_reduce 1024 50`, on all ranks; resolves with the nanoseconds of one operation. */
  run(command: string): Promise<number>;
  close(): void;
}

/** Starts one process for each command line; all of them are sent the commands, and all answer. */
export function startRanks(name: string, commands: readonly (readonly string[])[], env: NodeJS.ProcessEnv = {}): Ranks {
  const children = commands.map(([program, ...args]) =>
    spawn(program!, args, {
      stdio: ['pipe', 'pipe', 'inherit'],
      env: { ...process.env, OMP_NUM_THREADS: '1', PYTHONWARNINGS: 'ignore', ...env },
    }),
  );
  const answers = children.map((child) => answersOf(name, child));
  return {
    name,
    run: async (command) => {
      for (const child of children) child.stdin!.write(`${command}\n`);
      return Math.max(...(await Promise.all(answers.map((answer) => answer()))));
    },
    close: () => {
      for (const child of children) child.stdin!.end();
    },
  };
}

function answersOf(name: string, child: ChildProcess): () => Promise<number> {
  const failed = new Promise<never>((_, reject) => child.once('error', reject));
  failed.catch(() => {});
  child.stdin!.on('error', () => {}); // its end is noticed by the answer that does not come
  const lines = createInterface({ input: child.stdout! })[Symbol.asyncIterator]();
  return async () => {
    const { value, done } = await Promise.race([lines.next(), failed]);
    if (done) throw new Error(`a process of ${name} ended instead of answering`);
    return Number(value);
  };
}
