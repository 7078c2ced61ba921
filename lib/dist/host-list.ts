// Slurm's way of writing hosts, as far as finding the first one: 'gpu[07-12,20],login1' begins with gpu07.

/** The first host of a Slurm node list. */
export function firstHost(list: string): string {
  const bracket = list.indexOf('[');
  const comma = list.indexOf(',');
  if (bracket < 0 || (comma >= 0 && comma < bracket)) return (comma < 0 ? list : list.slice(0, comma)).trim();
  const close = list.indexOf(']', bracket);
  const first = list.slice(bracket + 1, close).split(/[-,]/)[0] ?? '';
  // What follows the bracket up to the next comma belongs to the name: 'rack[1-2]node[3-4]'.
  const rest = list.slice(close + 1);
  const tail = /^[^,]/.test(rest) ? firstHost(rest) : '';
  return `${list.slice(0, bracket)}${first}${tail}`.trim();
}
