#pragma once
// Connector: from vision tokens to the rows that fill the visual slots of the language model.
#include "model/vision/umt_vit.h"

namespace tpo {

class Connector {
 public:
  virtual ~Connector() = default;
  // vision (media * grid.tokens_per_media(), C_v) -> (media * slots(grid), C), media order.
  virtual Tensor operator()(const Tensor& vision_tokens, const PatchGrid& grid) const = 0;
  // Slots that one medium fills; may depend on frames, height and width, never on grid.media.
  virtual int64_t slots(const PatchGrid& grid) const = 0;
  // Its matrix products, for the count of floating point operations: calls visit(layer, rows of its input).
  virtual void for_each_linear(const PatchGrid& grid,
                               const std::function<void(const Linear&, int64_t rows)>& visit) const = 0;
};

}  // namespace tpo
