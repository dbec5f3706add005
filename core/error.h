#pragma once
// Typed exceptions and the check functions that throw them.
// Every check runs before the first effect, so a caught error leaves nothing half done.
#include <sstream>
#include <stdexcept>
#include <string>

namespace tpo {

// Base of all errors of this project. what() is one sentence that names the object, the fact and what would be legal.
class Error : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

struct ConfigError : Error {
  using Error::Error;
};  // a field or flag has an illegal value
struct ShapeError : Error {
  using Error::Error;
};  // an op got shapes or dtypes that do not fit
struct DeviceError : Error {
  using Error::Error;
};  // wrong or missing device, data asked of meta, out of memory
struct CommError : Error {
  using Error::Error;
};  // a collective failed, or ranks disagree
struct IoError : Error {
  using Error::Error;
};  // the operating system refused: open, read, write, full disk
struct DataError : Error {
  using Error::Error;
};  // bytes were read but are not what the format promises

// Joins the parts with operator<<.
template <class... Parts>
std::string cat(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

// Throws E(cat(parts...)) unless ok.
template <class E, class... Parts>
void check(bool ok, const Parts&... parts) {
  if (!ok) throw E(cat(parts...));
}

template <class... Parts>
void check_shape(bool ok, const Parts&... parts) {
  check<ShapeError>(ok, parts...);
}

}  // namespace tpo

// Internal invariant: a failure is a bug of this project, never of the user's input.
#define TPO_HERE ::tpo::cat(__FILE__, ":", __LINE__)
#define TPO_ASSERT(cond)                                                                   \
  do {                                                                                     \
    if (!(cond)) throw ::std::logic_error(::tpo::cat(TPO_HERE, ": ", #cond, " is false")); \
  } while (false)
