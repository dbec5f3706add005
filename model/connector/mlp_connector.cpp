#include "model/connector/mlp_connector.h"

#include <cmath>

#include "core/ops/embedding.h"
#include "core/ops/layout.h"
#include "core/ops/resize.h"
#include "core/profile.h"

namespace tpo {

namespace {

int64_t half(int64_t side) { return (side + 1) / 2; }

Tensor indices(const std::vector<int32_t>& rows) { return Tensor::from(rows, {static_cast<int64_t>(rows.size())}); }

}  // namespace

MlpConnector::MlpConnector(const ParamScope& s, int64_t vision_width, int64_t width, int64_t tile,
                           const TilingConfig& tiling, const TensorParallel& tp)
    : tile_(tile),
      tiling_(tiling),
      fc1_(s / "fc1", vision_width, width, Split::kNone, tp, Bias::kYes, Init::xavier(vision_width, width)),
      fc2_(s / "fc2", width, width, Split::kNone, tp, Bias::kYes, Init::xavier(width, width)),
      newline_(s.param("newline", {width}, Init::normal(0, 1 / std::sqrt(static_cast<float>(width))))) {}

int64_t MlpConnector::slots(const PatchGrid& g) const {
  return 1 + (g.frames > 1 ? g.frames * half(g.height) * half(g.width) : g.height * g.width);
}

std::vector<TileLayout> MlpConnector::layouts(const ConnectorInput& in) const {
  std::vector<TileLayout> out;
  int64_t views = 0;
  check_shape(in.grid.frames == 1 && in.grid.height == in.grid.width, "[mlp_connector] tiles have ", in.grid.frames,
              " frames of ", in.grid.height, " x ", in.grid.width, " patches; they must be square pictures");
  for (const PictureSize& p : in.pictures) {
    out.push_back(tile_layout(p, tile_, in.grid.height, tiling_));
    views += out.back().views();
  }
  check_shape(views == in.grid.media, "[mlp_connector] ", in.pictures.size(), " pictures have ", views,
              " base pictures and tiles, but there are ", in.grid.media);
  return out;
}

int64_t MlpConnector::slots_of_all(const ConnectorInput& in) const {
  if (in.pictures.empty()) return Connector::slots_of_all(in);
  int64_t sum = 0;
  for (const TileLayout& t : layouts(in)) sum += t.slots();
  return sum;
}

// One gather out of all tokens, the newline, and the pictures that are resampled.
Tensor MlpConnector::assemble(const Tensor& tokens_NC, const std::vector<TileLayout>& pictures, int64_t patches) const {
  const int64_t C = tokens_NC.dim(1), newline = tokens_NC.dim(0);
  std::vector<Tensor> sources{tokens_NC, newline_.use().view({1, C})};
  std::vector<int32_t> rows;
  const auto take = [&rows](int64_t row) { rows.push_back(static_cast<int32_t>(row)); };
  int64_t begin = 0, end = newline + 1;  // of the tokens of a picture; of the sources
  for (const TileLayout& t : pictures) {
    for (int64_t i = 0; i < patches; ++i) take(begin + i);
    if (t.resampled()) {
      std::vector<int32_t> kept;
      for (int64_t r = 0; r < t.kept_rows; ++r)
        for (int64_t c = 0; c < t.kept_columns; ++c) kept.push_back(static_cast<int32_t>(begin + t.token(r, c)));
      const Tensor image = gather_rows(tokens_NC, indices(kept)).view({1, t.kept_rows, t.kept_columns, C});
      sources.push_back(resize(image, t.rows, t.columns).view({t.rows * t.columns, C}));
    }
    for (int64_t r = 0; r < t.rows; ++r) {
      for (int64_t c = 0; c < t.columns; ++c) take(t.resampled() ? end + r * t.columns + c : begin + t.token(r, c));
      take(newline);
    }
    begin += t.views() * patches;
    if (t.resampled()) end += t.rows * t.columns;
  }
  return gather_rows(concat_rows(sources), indices(rows));
}

Tensor MlpConnector::operator()(const ConnectorInput& in) const {
  const ProfileScope region("connector");
  const PatchGrid& g = in.grid;
  if (!in.pictures.empty()) {
    const std::vector<TileLayout> pictures = layouts(in);  // checks before any work
    return assemble(fc2_(fc1_(in.vision, Activation::kGelu)), pictures, g.height * g.width);
  }
  Tensor y_NC = fc2_(fc1_(in.vision, Activation::kGelu));
  const int64_t C = y_NC.dim(1), S = slots(g);
  if (g.frames > 1) y_NC = resize(y_NC.view({g.media * g.frames, g.height, g.width, C}), half(g.height), half(g.width));
  const Tensor newline_IC = broadcast_rows(newline_.use(), g.media);
  return concat_last({y_NC.view({g.media, (S - 1) * C}), newline_IC}).view({g.media * S, C});
}

bool MlpConnector::count(ProductCounter& f, const PatchGrid& g, std::span<const int64_t>, bool wants) const {
  const int64_t rows = g.media * g.tokens_per_media();
  const bool hidden = f.linear(fc1_, rows, wants);
  return f.linear(fc2_, rows, hidden) || newline_.trainable;
}

}  // namespace tpo
