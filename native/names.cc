#include "names.h"

#include <c10/core/Layout.h>
#include <c10/core/MemoryFormat.h>

#include <array>

#include "error.h"

namespace shardloop {
namespace {

struct NamedDType {
  const char* name;
  at::ScalarType dtype;
};
// Python torch's names.
constexpr std::array kDTypes{
    NamedDType{"float32", at::kFloat},
    NamedDType{"float64", at::kDouble},
    NamedDType{"float16", at::kHalf},
    NamedDType{"bfloat16", at::kBFloat16},
    NamedDType{"int64", at::kLong},
    NamedDType{"int32", at::kInt},
    NamedDType{"int16", at::kShort},
    NamedDType{"int8", at::kChar},
    NamedDType{"uint8", at::kByte},
    NamedDType{"bool", at::kBool},
    NamedDType{"complex64", at::kComplexFloat},
    NamedDType{"complex128", at::kComplexDouble},
    NamedDType{"complex32", at::kComplexHalf},
    NamedDType{"uint16", at::kUInt16},
    NamedDType{"uint32", at::kUInt32},
    NamedDType{"uint64", at::kUInt64},
    NamedDType{"float8_e4m3fn", at::kFloat8_e4m3fn},
    NamedDType{"float8_e5m2", at::kFloat8_e5m2},
    NamedDType{"float8_e4m3fnuz", at::kFloat8_e4m3fnuz},
    NamedDType{"float8_e5m2fnuz", at::kFloat8_e5m2fnuz},
    NamedDType{"qint8", at::kQInt8},
    NamedDType{"quint8", at::kQUInt8},
    NamedDType{"qint32", at::kQInt32},
};

struct NamedInt {
  const char* name;
  int64_t value;
};
constexpr std::array kLayouts{
    NamedInt{"strided", (int64_t)c10::kStrided},      NamedInt{"sparse_coo", (int64_t)c10::kSparse},
    NamedInt{"sparse_csr", (int64_t)c10::kSparseCsr}, NamedInt{"sparse_csc", (int64_t)c10::kSparseCsc},
    NamedInt{"sparse_bsr", (int64_t)c10::kSparseBsr}, NamedInt{"sparse_bsc", (int64_t)c10::kSparseBsc},
};
constexpr std::array kMemoryFormats{
    NamedInt{"contiguous_format", (int64_t)c10::MemoryFormat::Contiguous},
    NamedInt{"preserve_format", (int64_t)c10::MemoryFormat::Preserve},
    NamedInt{"channels_last", (int64_t)c10::MemoryFormat::ChannelsLast},
    NamedInt{"channels_last_3d", (int64_t)c10::MemoryFormat::ChannelsLast3d},
};

template <class Table>
std::string names_of(const Table& table) {
  std::string names;
  for (const auto& row : table) names += (names.empty() ? "" : ", ") + std::string(row.name);
  return names;
}

template <class Table>
int64_t parse_named(const Table& table, const std::string& name, const char* what) {
  for (const auto& row : table) {
    if (name == row.name) return row.value;
  }
  throw Error("BAD_ARGUMENT",
              std::string("Expected ") + what + " as one of " + names_of(table) + ", received \"" + name + "\".");
}

template <class Table>
std::string named(const Table& table, int64_t value) {
  for (const auto& row : table) {
    if (value == row.value) return row.name;
  }
  return std::to_string(value);
}

}  // namespace

at::ScalarType parse_dtype(std::string_view name) {
  for (const auto& row : kDTypes) {
    if (name == row.name) return row.dtype;
  }
  throw Error("BAD_ARGUMENT",
              "Expected a dtype as one of " + names_of(kDTypes) + ", received \"" + std::string(name) + "\".");
}

const char* dtype_name(at::ScalarType dtype) {
  for (const auto& row : kDTypes) {
    if (row.dtype == dtype) return row.name;
  }
  return c10::toString(dtype);
}

int64_t parse_layout(const std::string& name) { return parse_named(kLayouts, name, "a layout"); }
std::string layout_name(int64_t layout) { return named(kLayouts, layout); }
int64_t parse_memory_format(const std::string& name) { return parse_named(kMemoryFormats, name, "a memory format"); }
std::string memory_format_name(int64_t format) { return named(kMemoryFormats, format); }

}  // namespace shardloop
