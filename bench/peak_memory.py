"""The peak of a Python contender's resident memory, as ours reads it. Not getrusage's ru_maxrss: that survives exec, so that a
child of a larger process, the benchmark itself, would start with its parent's.
"""


def peak_memory():
    """Bytes, since the program began."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM:")) * 1024
