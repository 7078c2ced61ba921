// Where and how ranks find each other: generations of a name, the address that one host takes, a port that is taken.
import { networkInterfaces } from 'node:os';
import { describe, expect, it } from 'vitest';
import { freePort, runRanks } from './ranks.js';

describe('two processes', () => {
  it('meet only within a generation', async () => {
    const runs = await runRanks(
      2,
      `const store = { host: '127.0.0.1', port: Number(process.env.MASTER_PORT), serve: rank === 0 };
       const world = await dist.createGroup({ rank, size, store, timeoutSeconds: 20 });
       const open = (name, generation) => dist.createGroup({ rank, size, name, store: { ...store, serve: false }, generation, timeoutSeconds: 3 });
       const texts = [];
       for (const [name, generation] of [['unlike', String(rank)], ['absent', rank ? undefined : '1'], ['alike', '7']])
         texts.push(await failure(async () => await (await open(name, generation)).barrier().done()));
       await world.barrier().done();
       report({ texts });`,
    );
    for (const [rank, run] of runs.entries()) {
      expect(run.reports[0]!.texts).toEqual([
        expect.stringMatching(
          `^BAD_LAUNCH: \\[rank ${rank}/2\\] init on group 'unlike': .*did not find each other within 3 s`,
        ),
        expect.stringMatching(
          `^BAD_LAUNCH: \\[rank ${rank}/2\\] init on group 'absent': .*did not find each other within 3 s`,
        ),
        'no error',
      ]);
    }
  });

  // The address of another interface than the loopback, where there is one.
  const outward = Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .find(({ internal, family }) => !internal && family === 'IPv4')?.address;

  it.runIf(process.platform === 'linux' && outward !== undefined)(
    'take the loopback only when all ranks are on one host',
    async () => {
      const [first] = await runRanks(
        2,
        `import { readFileSync, readdirSync, readlinkSync } from 'node:fs';
       /** The local addresses of this process's TCP connections to the other rank: neither the store's nor listening. */
       const addresses = () => {
         const own = new Set(readdirSync('/proc/self/fd').flatMap((fd) => { try { return [readlinkSync('/proc/self/fd/' + fd)]; } catch { return []; } }));
         const tables = ['/proc/net/tcp', '/proc/net/tcp6'].map((file) => readFileSync(file, 'utf8').split('\\n').slice(1));
         const rows = tables.flat().map((line) => line.trim().split(/\\s+/)).filter((row) => row[3] === '01' && own.has('socket:[' + row[9] + ']'));
         const port = Number(process.env.MASTER_PORT).toString(16).toUpperCase().padStart(4, '0');
         const others = rows.filter((row) => !row[1].endsWith(':' + port) && !row[2].endsWith(':' + port));
         return [...new Set(others.map((row) => row[1].split(':')[0].slice(-8).match(/../g).reverse().map((hex) => parseInt(hex, 16)).join('.')))];
       };
       const store = { host: '${outward}', port: Number(process.env.MASTER_PORT) };
       const seen = {};
       const world = await dist.createGroup({ rank, size, store: { ...store, serve: rank === 0 }, timeoutSeconds: 20, oneHost: true });
       await world.barrier().done();
       seen.oneHost = addresses();
       await world.barrier().done();
       for (const oneHost of [false, undefined]) {
         const group = await dist.createGroup({ rank, size, store, timeoutSeconds: 20, name: 'g', oneHost });
         await group.barrier().done();
         seen[String(oneHost)] = addresses().filter((address) => !seen.oneHost.includes(address));
         await world.barrier().done();
         await group.destroy();
       }
       report(seen);
       await world.barrier().done();`,
      );
      expect(first!.err).toBe('');
      expect(first!.reports[0]).toEqual({ oneHost: ['127.0.0.1'], false: [outward], undefined: [outward] });
    },
  );

  it('says which port is taken', async () => {
    const port = await freePort();
    const { createServer } = await import('node:net');
    const server = createServer().listen(port);
    const [first] = await runRanks(
      1,
      `report({ text: await failure(() => dist.createGroup({ rank: 0, size: 2, store: { host: '127.0.0.1', port: ${port}, serve: true } })) });`,
    );
    server.close();
    expect(first!.reports[0]!.text).toMatch(
      new RegExp(`BAD_LAUNCH: \\[rank 0/2\\].*could not serve the store on 127.0.0.1:${port}; is the port taken`),
    );
  });
});
