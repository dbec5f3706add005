#include "core/memory.h"

#include <algorithm>

namespace tpo {

namespace {

thread_local MemoryKind t_kind = MemoryKind::kWorkspace;

}  // namespace

std::string_view name_of(MemoryKind kind) {
  constexpr std::string_view kNames[kMemoryKinds] = {"weights",     "gradients", "optimizer",
                                                     "activations", "batch",     "workspace"};
  return kNames[static_cast<size_t>(kind)];
}

const MemoryMoment& MemoryUse::at_peak() const {
  return *std::max_element(phases.begin(), phases.end(),
                           [](const MemoryMoment& a, const MemoryMoment& b) { return a.bytes < b.bytes; });
}

MemoryScope::MemoryScope(MemoryKind kind) : previous_(t_kind) { t_kind = kind; }
MemoryScope::~MemoryScope() { t_kind = previous_; }
MemoryKind MemoryScope::current() { return t_kind; }

}  // namespace tpo
