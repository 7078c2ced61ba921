// The 'gloo' backend of process_group.h: libtorch's ProcessGroupGloo over TCP.
// Its headers need Gloo's, which the wheels lack: the few declarations stand in gloo_declarations/.
#include "gloo_backend.h"

#include <cxxabi.h>
#include <unistd.h>

#include <cstring>
#include <exception>
#include <typeinfo>

#include "works.h"

namespace shardloop {

using c10d::ProcessGroupGloo;

c10::intrusive_ptr<ProcessGroupGloo::Options> gloo_options(const BackendArguments& arguments) {
  auto options = ProcessGroupGloo::Options::create(arguments.timeout);
  const std::string& device = arguments.device;
  const std::string by_host = "host:", by_interface = "interface:";
  if (device.rfind(by_host, 0) == 0) {
    options->devices.push_back(ProcessGroupGloo::createDeviceForHostname(device.substr(by_host.size())));
  } else if (device.rfind(by_interface, 0) == 0) {
    std::string names = device.substr(by_interface.size());
    for (size_t start = 0; start <= names.size();) {
      size_t end = std::min(names.find(',', start), names.size());
      options->devices.push_back(ProcessGroupGloo::createDeviceForInterface(names.substr(start, end - start)));
      start = end + 1;
    }
  } else {
    options->devices.push_back(ProcessGroupGloo::createDefaultDevice());
  }
  // Two threads run collectives for each device, so that two buckets can be on their way at once.
  options->threads = static_cast<int>(options->devices.size() * 2);
  return options;
}

namespace {

BackendPtr create_gloo(const BackendArguments& arguments) {
  return c10::make_intrusive<ProcessGroupGloo>(arguments.store, arguments.rank, arguments.size,
                                               gloo_options(arguments));
}

// Gloo throws on its own thread when a peer sends more than was expected, and the process would end: ranks that differ
// in shape must become an error instead. The thread cannot be left by an exception and keeps Gloo's locks, so it is
// parked for good; its groups fail, and are of no use any more. Everything else ends the process as before.
std::terminate_handler previous_terminate = nullptr;

void on_terminate() {
  const std::type_info* type = abi::__cxa_current_exception_type();
  if (type == nullptr || std::strstr(type->name(), "4gloo") == nullptr) return previous_terminate();
  fail_groups_in_flight(exception_text(std::current_exception()));
  while (true) pause();
}

[[maybe_unused]] const bool registered = [] {
  previous_terminate = std::set_terminate(on_terminate);
  register_backend("gloo", {&create_gloo, false});
  return true;
}();

}  // namespace
}  // namespace shardloop
