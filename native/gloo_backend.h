// The 'gloo' backend of process_group.h, for a backend that leaves some operations to it.
#pragma once
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "process_group.h"

namespace shardloop {

// The connections and the deadline that the arguments ask for.
c10::intrusive_ptr<c10d::ProcessGroupGloo::Options> gloo_options(const BackendArguments& arguments);

}  // namespace shardloop
