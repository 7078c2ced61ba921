"""safetensors by its own library: writes a file from tensors, reads a file into tensors."""
from safetensors import safe_open
from safetensors.torch import save_file


def main(args, tensors):
    if args["do"] == "write":
        save_file(tensors, args["path"], metadata=args.get("metadata"))
        return None
    with safe_open(args["path"], "pt") as file:
        return file.metadata(), {name: file.get_tensor(name) for name in file.keys()}
