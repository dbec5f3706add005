#pragma once
// From names and shapes to what is made of what: the same recipes serve import (ours made of theirs) and export (theirs
// made of ours). No bytes are touched here.
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "checkpoint/sift.h"
#include "checkpoint/weights/name_map.h"
#include "core/shape.h"

namespace tpo {

struct NamedShape {
  std::string name;
  Shape shape;
};

// How the elements of one tensor are made of others, which are indices into a list of sources.
struct Recipe {
  enum class Order {
    kSame,
    kColoursLast,  // source (O, 3, K), made (O, K, 3)
    kColoursFirst  // source (O, K, 3), made (O, 3, K)
  };
  struct Piece {
    size_t source = 0;
    int64_t from = 0, to = 0, count = 0;  // elements of the source, of what is made
  };
  std::string name;  // of what is made
  Shape shape;
  std::vector<Piece> pieces;  // by `to`, without gaps but for mean rows
  Order order = Order::kSame;
  int64_t mean_rows = 0;  // the last rows are the mean of the others, which are one piece
  bool counting = false;  // 0, 1, 2, ... as int64, no pieces
  // Added to what the pieces give: scale * b a, with a (rank, columns) and b (rows, rank).
  std::optional<size_t> lora_a, lora_b;
  float lora_scale = 0;
};

struct ImportPlan {
  std::vector<Recipe> recipes;       // sources are indices into theirs
  std::vector<NameNote> missing;     // ours, of a part that the layout covers, without a source
  std::vector<NameNote> unexpected;  // theirs that no row knows, or whose part this model does not have
  std::vector<NameNote> reshaped;    // ours whose source has another shape
  std::vector<NameNote> later;       // theirs, accepted: their parts do not exist yet
  std::vector<NameNote> unused;      // theirs, accepted: nothing needs them
  std::vector<size_t> counting;      // theirs that must be 0, 1, 2, ..., also in unused
  int64_t outside = 0;               // ours that the layout does not cover
};

// merge: an adapter <scope>.lora_a, .lora_b of theirs is added into <scope>.weight, times lora_scale.
struct LoraMerge {
  bool merge = false;
  float scale = 2;
};

// Throws DataError if two of theirs stand for the same elements of ours, or an adapter to be merged does not fit.
ImportPlan plan_import(const Layout& layout, std::span<const NamedShape> theirs, std::span<const NamedShape> ours,
                       const LoraMerge& lora);

struct ExportPlan {
  std::vector<Recipe> recipes;     // sources are indices into ours, in the order of ours
  std::vector<NameNote> missing;   // patterns of theirs without a tensor of ours, later parts included
  std::vector<NameNote> left_out;  // ours without a name in the layout
  std::vector<NameNote> adapters;  // ours: low-rank terms of exported weights that the layout has no names for
};

// merge: adapters without a name in the layout are added into their weights.
// Throws DataError for a tensor of ours whose shape its row cannot express.
ExportPlan plan_export(const Layout& layout, std::span<const NamedShape> ours, const LoraMerge& lora);

}  // namespace tpo
