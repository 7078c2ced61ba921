// The one exception type that our own native code throws: a stable code from lib/core/errors.ts and a whole sentence.
#pragma once
#include <exception>
#include <string>
#include <utility>

namespace shardloop {

class Error : public std::exception {
 public:
  Error(const char* code, std::string message) : code_(code), message_(std::move(message)) {}
  const char* code() const noexcept { return code_; }
  const char* what() const noexcept override { return message_.c_str(); }

 private:
  const char* code_;  // a literal
  std::string message_;
};

}  // namespace shardloop
