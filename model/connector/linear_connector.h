#pragma once
// One linear layer per m x m neighbourhood of patches of a frame. Name: <scope>.proj (C, m*m*C_v).
#include "model/connector/connector.h"

namespace tpo {

class LinearConnector final : public Connector {
 public:
  LinearConnector(const ParamScope& scope, int64_t vision_width, int64_t width, int64_t merge,
                  const TensorParallel& tp);
  // Throws ShapeError if merge does not divide the grid's height and width.
  Tensor operator()(const ConnectorInput& in) const override;
  int64_t slots(const PatchGrid& grid) const override;
  bool count(ProductCounter& counter, const PatchGrid& grid, std::span<const int64_t> texts, bool wants) const override;

 private:
  int64_t merge_;
  Linear proj_;
};

}  // namespace tpo
