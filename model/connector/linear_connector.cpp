#include "model/connector/linear_connector.h"

#include "core/ops/layout.h"

namespace tpo {

LinearConnector::LinearConnector(const ParamScope& s, int64_t vision_width, int64_t width, int64_t merge,
                                 const TensorParallel& tp)
    : merge_(merge),
      proj_(s / "proj", merge * merge * vision_width, width, Split::kNone, tp, Bias::kYes,
            Init::xavier(merge * merge * vision_width, width)) {}

int64_t LinearConnector::slots(const PatchGrid& g) const {
  check_shape(g.height % merge_ == 0 && g.width % merge_ == 0, "[linear_connector] merge ", merge_,
              " must divide the patch grid ", g.height, " x ", g.width);
  return g.frames * (g.height / merge_) * (g.width / merge_);
}

Tensor LinearConnector::operator()(const Tensor& vision_tokens, const PatchGrid& g) const {
  slots(g);  // checks the grid
  return proj_(merge_ == 1 ? vision_tokens : merge_patches(vision_tokens, g.height, g.width, merge_));
}

void LinearConnector::for_each_linear(const PatchGrid& g,
                                      const std::function<void(const Linear&, int64_t rows)>& visit) const {
  visit(proj_, g.media * slots(g));
}

}  // namespace tpo
