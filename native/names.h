// The names of dtypes, layouts and memory formats, as JavaScript and Python's torch spell them. Unknown names throw
// BAD_ARGUMENT with the list of the known ones.
#pragma once
#include <c10/core/ScalarType.h>

#include <string>
#include <string_view>

namespace shardloop {

at::ScalarType parse_dtype(std::string_view name);
const char* dtype_name(at::ScalarType dtype);
int64_t parse_layout(const std::string& name);
std::string layout_name(int64_t layout);
int64_t parse_memory_format(const std::string& name);
std::string memory_format_name(int64_t format);

}  // namespace shardloop
