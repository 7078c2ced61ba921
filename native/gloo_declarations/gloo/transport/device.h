// Names that ProcessGroupGloo.hpp holds by pointer. Devices are made by ProcessGroupGloo's own factory functions.
#pragma once

namespace gloo::transport {

class Device;

class UnboundBuffer {
 public:
  virtual ~UnboundBuffer() = 0;  // declared so that a unique_ptr to it can be destroyed; defined in libtorch_cpu
};

}  // namespace gloo::transport
