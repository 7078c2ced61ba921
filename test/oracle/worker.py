"""The other end of python.ts: reads one JSON request a line from stdin, calls main(args, tensors) of the named script
beside this file, answers one JSON line on descriptor 3. Prints of the scripts go to stderr. It knows nothing of what
the scripts compare."""
import importlib.util
import json
import os
import struct
import sys
import traceback

import torch

HERE = os.path.dirname(os.path.abspath(__file__))
DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32,
    "I64": torch.int64, "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32,
    "F64": torch.float64, "C64": torch.complex64, "C128": torch.complex128,
}
CODES = {dtype: code for code, dtype in DTYPES.items()}


def read_tensors(path):
    with open(path, "rb") as file:
        blob = bytearray(file.read())
    (length,) = struct.unpack("<Q", blob[:8])
    header, start = json.loads(blob[8:8 + length]), 8 + length
    result = {}
    for name, entry in header.items():
        first, last = entry["data_offsets"]
        dtype = DTYPES[entry["dtype"]]
        if first == last:
            result[name] = torch.empty(entry["shape"], dtype=dtype)
        else:
            flat = torch.frombuffer(blob[start + first:start + last], dtype=dtype)
            result[name] = flat.reshape(entry["shape"]).clone()
    return result


def write_tensors(path, tensors):
    header, blobs, offset = {}, [], 0
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().resolve_conj().resolve_neg()
        flat = torch.empty(tensor.numel(), dtype=tensor.dtype).copy_(tensor.reshape(-1))
        blob = flat.view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        header[name] = {"dtype": CODES[tensor.dtype], "shape": list(tensor.shape),
                        "data_offsets": [offset, offset + len(blob)]}
        offset += len(blob)
        blobs.append(blob)
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + b"".join(blobs))


def load(script, cache={}):
    if script not in cache:
        spec = importlib.util.spec_from_file_location(script, os.path.join(HERE, script + ".py"))
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        cache[script] = module
    return cache[script]


def serve():
    torch.set_num_threads(1)
    sys.path.insert(0, HERE)
    replies = os.fdopen(3, "w", buffering=1)
    sys.stdout = sys.stderr
    for line in sys.stdin:
        request = json.loads(line)
        reply = {"id": request["id"]}
        try:
            given = os.path.join(request["folder"], "in.safetensors")
            tensors = read_tensors(given) if os.path.exists(given) else {}
            result = load(request["script"]).main(request["args"], tensors)
            value, out = result if isinstance(result, tuple) else (result, {})
            if out:
                write_tensors(os.path.join(request["folder"], "out.safetensors"), out)
            reply["value"] = value
            text = json.dumps(reply)
        except BaseException:
            text = json.dumps({"id": request["id"], "error": traceback.format_exc()})
        replies.write(text + "\n")


if __name__ == "__main__":
    serve()
