"""Cases for ops.test.ts out of torch.testing's op database: for an entry, a dtype and a sample, the ATen calls with their
arguments, the outputs, and the input gradients for random cotangents. Comparing is the test's work, not done here."""
import random
import re
import warnings

import numpy
import torch
from ops_record import Unpassable, record, replay
from torch.testing._internal.common_methods_invocations import op_db
from torch.utils._pytree import tree_flatten
from worker import CODES

warnings.filterwarnings("ignore")
DTYPES = {"float32": torch.float32, "float64": torch.float64, "bfloat16": torch.bfloat16, "int64": torch.int64,
          "bool": torch.bool, "complex64": torch.complex64}
LARGEST = 1 << 20  # elements of one tensor; larger samples only cost time
SCAN = 40  # samples looked at, out of which the asked number is taken at even distances


def main(args, _tensors):
    if args.get("count"):
        return {"entries": [entry_name(op) for op in op_db]}
    torch.use_deterministic_algorithms(False)
    cases, skipped, tensors = [], [], {}
    for index in range(args["from"], min(args["to"], len(op_db))):
        op = op_db[index]
        if args.get("only") and not re.search(args["only"], entry_name(op)):
            continue
        if op.name.startswith("jiterator"):
            skipped.append({"entry": entry_name(op), "reason": "a kernel that Python compiles for a GPU"})
            continue
        supported = op.supported_dtypes("cpu")
        some = False
        for name, dtype in DTYPES.items():
            if dtype not in supported:
                continue
            some = True
            try:
                samples = choose(op, dtype, args["samples"][name])
            except Exception as error:
                skipped.append({"entry": entry_name(op), "reason": "no samples here: " + first_line(error)})
                continue
            for number, sample in samples:
                seed = 1000 + number
                where = {"entry": entry_name(op), "dtype": name, "sample": number, "seed": seed}
                try:
                    cases.append({**where, **make_case(op, sample, seed, len(cases), tensors)})
                except Unpassable as reason:
                    skipped.append({**where, "reason": str(reason)})
                except Exception as error:
                    skipped.append({**where, "reason": "Python itself fails: " + first_line(error)})
        if not some:
            skipped.append({"entry": entry_name(op), "reason": "none of the tested dtypes on the CPU: "
                            + ", ".join(sorted(str(d).removeprefix("torch.") for d in supported))})
    return {"cases": cases, "skipped": skipped}, tensors


def entry_name(op):
    return op.name + ("." + op.variant_test_name if op.variant_test_name else "")


def showable(tensor):
    return tensor.layout is torch.strided and not tensor.is_quantized and tensor.dtype in CODES


def first_line(error):
    return type(error).__name__ + ": " + (str(error).strip().splitlines() or [""])[0][:160]


def choose(op, dtype, count):
    """Up to `count` samples, evenly spread over the first SCAN ones; the same ones in every run."""
    torch.manual_seed(7), random.seed(7), numpy.random.seed(7)
    wants_grad = dtype in op.supported_backward_dtypes("cpu") if op.supports_autograd else False
    found = []
    for sample in op.sample_inputs("cpu", dtype, requires_grad=wants_grad):
        found.append(sample)
        if len(found) == SCAN:
            break
    if len(found) <= count:
        return list(enumerate(found))
    places = sorted({round(i * (len(found) - 1) / (count - 1)) for i in range(count)}) if count > 1 else [0]
    return [(i, found[i]) for i in places]


def make_case(op, sample, seed, number, tensors):
    given = tree_flatten((sample.input, sample.args, sample.kwargs))[0]
    for value in given:
        if isinstance(value, torch.Tensor) and value.numel() > LARGEST:
            raise Unpassable("the sample has more than %d elements" % LARGEST)
        if isinstance(value, torch.Generator):
            raise Unpassable("an argument is a Generator")

    def run():
        torch.manual_seed(seed), random.seed(seed)
        result = op(sample.input, *sample.args, **sample.kwargs)
        processed = sample.output_process_fn_grad(result) if op.supports_autograd else ()
        return result, processed

    program, (result, processed) = record([v for v in given if isinstance(v, torch.Tensor)], run)
    if not program.calls:
        raise Unpassable("it calls no ATen op (Python alone computes it)")
    outputs, plain = [], []
    for value in tree_flatten(result)[0]:
        if isinstance(value, torch.Tensor):
            outputs.append(program.use(value))
        else:
            plain.append(value)
    roots = [program.use(v) for v in tree_flatten(processed)[0] if isinstance(v, torch.Tensor) and v.requires_grad]

    torch.manual_seed(seed)
    values = replay(program)
    leaves = [n for n, held in program.inputs.items() if held.requires_grad]
    cotangents, gradients, no_gradient = {}, {}, None
    strange = {str(values[n].dtype) for n in roots if values[n].dtype not in CODES}
    if strange:
        no_gradient = "no gradient: no typed array for a cotangent of " + ", ".join(sorted(strange))
    elif leaves and roots:
        torch.manual_seed(seed + 1)
        cotangents = {n: torch.randn_like(values[n].detach()) for n in dict.fromkeys(roots)}
        # the values are taken before backward runs: an op may write into its input
    shown = {n: values[n].detach().clone() for n in dict.fromkeys(outputs) if showable(values[n])}
    if cotangents:
        try:
            got = torch.autograd.grad([values[n] for n in cotangents], [values[n] for n in leaves],
                                      list(cotangents.values()), allow_unused=True)
        except Exception as error:
            no_gradient = "Python's backward fails: " + first_line(error)
            got, cotangents = [], {}
        gradients = dict(zip(leaves, got))

    inputs = {}
    for n, held in program.inputs.items():
        tensors["%d.in.%d" % (number, n)] = held.values
        inputs[n] = {"size": held.size, "grad": held.requires_grad,
                     "view": None if held.whole else {"stride": held.stride, "offset": held.offset}}
    for n, value in shown.items():
        tensors["%d.out.%d" % (number, n)] = value
    for n, value in cotangents.items():
        tensors["%d.cotangent.%d" % (number, n)] = value
    for n, value in gradients.items():
        if value is not None:
            if value.layout is not torch.strided:
                value = value.to_dense()
            tensors["%d.grad.%d" % (number, n)] = value
    return {"number": number, "calls": [{"op": c[0], "args": c[2], "outs": c[3]} for c in program.calls],
            "inputs": inputs, "outputs": list(shown), "opaque": [n for n in outputs if n not in shown],
            "roots": list(cotangents), "leaves": leaves if cotangents else [], "noGradient": no_gradient}
