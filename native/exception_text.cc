// The text of an exception for people (works.h).
#include <c10/util/Exception.h>

#include <exception>
#include <string>

#include "works.h"

namespace shardloop {

std::string exception_text(const std::exception_ptr& exception) {
  std::string text = "unknown error";
  try {
    std::rethrow_exception(exception);
  } catch (const c10::Error& error) {
    text = error.what_without_backtrace();
  } catch (const std::exception& error) {
    text = error.what();
  } catch (...) {
  }
  return text.empty() ? "unknown error" : text;
}

}  // namespace shardloop
