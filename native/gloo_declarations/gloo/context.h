// The one member of gloo::Context that ProcessGroupGloo.hpp calls inline. The class itself lives in libtorch_cpu; it is
// only ever held by pointer here, so its layout does not matter.
#pragma once
#include <chrono>
#include <memory>

namespace gloo {

class Context {
 public:
  void setTimeout(std::chrono::milliseconds timeout);
};

}  // namespace gloo
