// `shardloop setup`: finds or fetches libtorch and builds the addon. Not here: how (lib/setup).
import { Command } from 'commander';
import { ShardloopError } from '../core/errors.js';
import { SetupError } from '../setup/errors.js';
import { setup } from '../setup/setup.js';
import { fail, printJson } from './exit.js';

interface SetupFlags {
  libtorch?: string;
  torchVersion?: string;
  archive?: string;
  archiveSha256?: string;
  cuda?: boolean;
  force?: boolean;
  json?: boolean;
}

export const setupCommand = () =>
  new Command('setup')
    .description('Find or fetch libtorch and build the native addon. Run again, it does only what is missing.')
    .option('--libtorch <dir>', 'use the libtorch in this folder (SHARDLOOP_LIBTORCH)')
    .option('--torch-version <version>', 'the version to fetch when none is found')
    .option('--archive <url>', 'use a libtorch archive: URL or path (SHARDLOOP_ARCHIVE)')
    .option('--archive-sha256 <hex>', 'the sum that the archive must have (SHARDLOOP_ARCHIVE_SHA256)')
    .option('--cuda', 'want CUDA even where no driver is found')
    .option('--no-cuda', 'leave CUDA out even where a driver is found')
    .option('--force', 'build even when the cache has the addon')
    .option('--json', 'print one JSON object')
    .action(async (flags: SetupFlags) => {
      try {
        const { torchVersion, json, ...rest } = flags;
        const result = await setup({ ...rest, version: torchVersion });
        if (json) printJson(result);
      } catch (error) {
        const ours = error instanceof SetupError;
        fail(ours ? new ShardloopError(error.code, error.message, { cause: error }) : error, flags);
      }
    });
