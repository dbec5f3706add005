#include "checkpoint/together.h"

#include <cstring>
#include <new>
#include <span>

#include "core/error.h"

namespace tpo {
namespace {

enum class Kind : char { kFine, kConfig, kShape, kDevice, kComm, kIo, kData, kOther };

// kind byte, then the result or the message.
std::string run_guarded(const std::function<std::string()>& body) {
  const auto failed = [](Kind kind, const std::exception& e) {
    return static_cast<char>(kind) + std::string(e.what());
  };
  try {
    return static_cast<char>(Kind::kFine) + body();
  } catch (const ConfigError& e) {
    return failed(Kind::kConfig, e);
  } catch (const ShapeError& e) {
    return failed(Kind::kShape, e);
  } catch (const DeviceError& e) {
    return failed(Kind::kDevice, e);
  } catch (const CommError& e) {
    return failed(Kind::kComm, e);
  } catch (const IoError& e) {
    return failed(Kind::kIo, e);
  } catch (const DataError& e) {
    return failed(Kind::kData, e);
  } catch (const std::exception& e) {
    return failed(Kind::kOther, e);
  }
}

[[noreturn]] void rethrow(Kind kind, const std::string& message) {
  switch (kind) {
    case Kind::kConfig:
      throw ConfigError(message);
    case Kind::kShape:
      throw ShapeError(message);
    case Kind::kDevice:
      throw DeviceError(message);
    case Kind::kComm:
      throw CommError(message);
    case Kind::kIo:
      throw IoError(message);
    case Kind::kData:
      throw DataError(message);
    default:
      throw Error(message);
  }
}

}  // namespace

std::vector<std::string> together(ProcessGroup& world, const std::function<std::string()>& body) {
  const std::string mine = run_guarded(body);
  std::vector<std::string> all;
  for (const std::vector<std::byte>& b : world.all_gather_bytes(std::as_bytes(std::span(mine)), "checkpoint")) {
    all.emplace_back(reinterpret_cast<const char*>(b.data()), b.size());
  }
  for (size_t r = 0; r < all.size(); ++r) {
    const Kind kind = static_cast<Kind>(all[r].at(0));
    const std::string text = all[r].substr(1);
    if (kind != Kind::kFine) rethrow(kind, all.size() > 1 ? cat("rank ", r, ": ", text) : text);
    all[r] = text;
  }
  return all;
}

std::vector<std::string> together_to_first(ProcessGroup& world, const std::function<std::string()>& body) {
  std::string mine;
  std::vector<std::string> all = together(world, [&] { return mine = body(), std::to_string(mine.size()); });
  for (int r = 0; r < world.size(); ++r) {
    const int64_t bytes = std::stoll(all[static_cast<size_t>(r)]);
    all[static_cast<size_t>(r)].clear();
    if (r == 0 || bytes == 0 || (world.rank() != 0 && world.rank() != r)) continue;
    const Tensor t = Tensor::empty({bytes}, DType::kU8);
    if (world.rank() == r) {
      std::memcpy(t.raw(), mine.data(), mine.size());
      world.send(t, 0, 0, "checkpoint").wait_host();
    } else {
      world.recv(t, r, 0, "checkpoint").wait_host();
      all[static_cast<size_t>(r)].assign(static_cast<const char*>(t.raw()), static_cast<size_t>(bytes));
    }
  }
  if (world.rank() == 0) all[0] = mine;
  return all;
}

}  // namespace tpo
