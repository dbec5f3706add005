#pragma once
// Connector: from vision tokens to the rows that fill the visual slots of the language model. I media, M rows of texts.
#include <span>

#include "model/product_counter.h"
#include "model/vision/any_resolution.h"
#include "model/vision/vision_encoder.h"

namespace tpo {

// Texts that a connector reads beside the media, one a medium, possibly empty. Undefined ids: no texts.
struct ConnectorText {
  Tensor ids = {}, positions = {};  // (M) i32, positions from 0 in each text
  Tensor row_ids = {};              // (M) i64, unique in the step; undefined: no dropout
  Tensor medium = {};               // (M) i32: the medium of a row
  Tensor joint_cu = {};             // (I+1) i32, queries and text of a medium together
  Tensor order = {},
         back = {};  // (I*Q + M) i32: the row, of the queries of all media followed by all texts, that stands at a
                     // place where each medium's queries are followed by its text; and the inverse
  bool any() const { return ids.defined(); }
};

struct ConnectorInput {
  Tensor vision;  // (I * grid.tokens_per_media(), C_v)
  PatchGrid grid;
  ConnectorText text = {};
  RngKey key = {};
  Tensor row_ids = {};  // (slots_of_all) i64 of the visual slots, unique in the step; undefined: no dropout
  // Sizes of pictures that are tiled: the media of `grid` are then the views of the first, those of the second and so
  // on (TileLayout). Empty: media are whole.
  std::vector<PictureSize> pictures = {};
};

class Connector {
 public:
  virtual ~Connector() = default;
  // -> (slots_of_all(in), C), media order.
  virtual Tensor operator()(const ConnectorInput& in) const = 0;
  // Slots that one whole medium fills; may depend on frames, height and width, never on grid.media.
  virtual int64_t slots(const PatchGrid& grid) const = 0;
  // Throws ShapeError if there are tiled pictures, unless the connector knows how to put them together.
  virtual int64_t slots_of_all(const ConnectorInput& in) const {
    check_shape(in.pictures.empty(), "[connector] pictures in tiles need connector.kind mlp");
    return in.grid.media * slots(in.grid);
  }
  // Counts the products of a pass. texts: rows of each medium's text, empty without texts. `wants`: whether the vision
  // tokens want a gradient; returns whether the slots do.
  virtual bool count(ProductCounter& counter, const PatchGrid& grid, std::span<const int64_t> texts,
                     bool wants) const = 0;
};

}  // namespace tpo
