#include "core/connector_text.h"

namespace tpo {

void add_connector_text(HostBatch& batch, std::span<const std::vector<int32_t>> texts, int64_t slots,
                        std::span<const int64_t> row_ids) {
  constexpr int64_t kLongest = int64_t{1} << 16;
  const auto media = static_cast<int64_t>(texts.size());
  check_shape(texts.size() == row_ids.size(), "[connector_text] ", media, " texts and ", row_ids.size(), " row ids");
  std::vector<int32_t> ids, positions, medium, cu{0}, order, back(static_cast<size_t>(media * slots));
  std::vector<int64_t> names;
  for (int64_t i = 0; i < media; ++i) {
    const std::vector<int32_t>& text = texts[static_cast<size_t>(i)];
    check_shape(static_cast<int64_t>(text.size()) <= kLongest, "[connector_text] text ", i, " has ", text.size(),
                " tokens, at most ", kLongest, " are legal");
    for (int64_t q = 0; q < slots; ++q) {
      back[static_cast<size_t>(i * slots + q)] = static_cast<int32_t>(order.size());
      order.push_back(static_cast<int32_t>(i * slots + q));
    }
    for (size_t j = 0; j < text.size(); ++j) {
      back.push_back(static_cast<int32_t>(order.size()));
      order.push_back(static_cast<int32_t>(media * slots + static_cast<int64_t>(ids.size())));
      ids.push_back(text[j]);
      positions.push_back(static_cast<int32_t>(j));
      medium.push_back(static_cast<int32_t>(i));
      names.push_back(-1 - (row_ids[static_cast<size_t>(i)] * kLongest + static_cast<int64_t>(j)));
    }
    cu.push_back(static_cast<int32_t>(order.size()));
  }
  const auto put = [&](const char* name, const auto& v) {
    batch.arrays[cat("connector_text.", name)] = HostArray::from(v, {static_cast<int64_t>(v.size())});
  };
  put("ids", ids), put("positions", positions), put("medium", medium), put("row_ids", names);
  put("joint_cu", cu), put("order", order), put("back", back);
}

}  // namespace tpo
