#include "checkpoint/held.h"

#include <algorithm>

#include "core/error.h"

namespace tpo {
namespace {

void check_tensor(const StateTensor& t) {
  const auto legal = [](char c) { return c > ' ' && c <= '~' && c != '/' && c != '@'; };
  check<ConfigError>(!t.name.empty() && std::all_of(t.name.begin(), t.name.end(), legal) && t.name != ".",
                     "[checkpoint] tensor name \"", t.name, "\" must be printable ASCII without /, @ and spaces");
  if (t.bytes) return;
  check<ConfigError>(t.value.defined(), "[checkpoint] tensor ", t.name, " is undefined");
  check<DeviceError>(t.value.device() == Device::kCpu, "[checkpoint] tensor ", t.name, " is on ", t.value.device(),
                     "; only host memory can be saved or loaded");
}

}  // namespace

std::map<std::string, HeldTensor> held_tensors(const TrainState& state) {
  std::map<std::string, HeldTensor> held;
  for (const StateTensor& t : state.tensors) {
    check_tensor(t);
    const bool whole = t.bytes != nullptr;
    const DType dtype = whole ? t.bytes->dtype() : t.value.dtype();
    const Part part{whole || t.rect == Rect{} ? whole_of(t.full) : t.rect, whole ? 0 : t.begin,
                    whole ? t.full.numel() : t.value.numel()};
    check<ConfigError>(lies_in(part, t.full), "[checkpoint] ", text_of(part, t.full), " are outside tensor ", t.name,
                       " ", t.full);
    const auto [it, first] = held.try_emplace(t.name, HeldTensor{t.full, dtype, {}});
    HeldTensor& h = it->second;
    check<ConfigError>(h.full == t.full && h.dtype == dtype, "[checkpoint] two tensors are named ", t.name, ": ",
                       h.dtype, h.full, " and ", dtype, t.full);
    h.blocks.push_back({normalised(part, t.full), t.value, t.bytes});
  }
  for (const auto& [name, h] : held) {
    if (h.blocks.size() == 1) continue;
    std::vector<Rect> rects;
    for (const HeldTensor::Block& b : h.blocks) {
      for (const Rect& r : rects_of(b.part)) rects.push_back(r);
    }
    if (const auto shared = first_shared(std::move(rects))) {
      throw ConfigError(cat("[checkpoint] two tensors are named ", name, " and both hold element ", *shared));
    }
  }
  return held;
}

}  // namespace tpo
