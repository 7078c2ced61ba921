"""safetensors by its own library: writes a file from tensors, reads a file into tensors. CRC-32 of files."""
import zlib

from safetensors import safe_open
from safetensors.torch import save_file


def main(args, tensors):
    if args["do"] == "write":
        save_file(tensors, args["path"], metadata=args.get("metadata"))
        return None
    if args["do"] == "crc32":
        return [zlib.crc32(open(path, "rb").read()) for path in args["paths"]]
    with safe_open(args["path"], "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
