"""What TensorBoard's own reader finds in a folder of event files."""
from math import isfinite

from tensorboard.backend.event_processing.event_accumulator import EventAccumulator


def main(args, tensors):
    reader = EventAccumulator(args["dir"])
    reader.Reload()
    scalars = {tag: [[e.step, e.value if isfinite(e.value) else str(e.value), e.wall_time] for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}
    texts = {tag: reader.Tensors(tag)[0].tensor_proto.string_val[0].decode() for tag in reader.Tags()["tensors"]}
    return {"scalars": scalars, "texts": texts, "version": reader.file_version}
