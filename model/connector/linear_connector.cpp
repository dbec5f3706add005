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

Tensor LinearConnector::operator()(const ConnectorInput& in) const {
  slots(in.grid);  // checks the grid
  return proj_(merge_ == 1 ? in.vision : merge_patches(in.vision, in.grid.height, in.grid.width, merge_));
}

bool LinearConnector::count(ProductCounter& counter, const PatchGrid& g, std::span<const int64_t>, bool wants) const {
  return counter.linear(proj_, g.media * slots(g), wants);
}

}  // namespace tpo
