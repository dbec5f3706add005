#pragma once
// From names and shapes to what is made of what: the same recipes serve import (ours made of theirs) and export (theirs
// made of ours). No bytes are touched here.
#include <cstdint>
#include <map>
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
  std::string name;  // of what is made
  Shape shape;
  size_t source = 0;  // of its elements; of ids and zeros only the one whose type they take
  Order order = Order::kSame;
  int64_t mean_rows = 0;  // the last rows are the mean of the others
  bool counting = false;  // 0, 1, 2, ... as int64
  bool zeros = false;
  // Added to what the source gives: scale * b a, with a (rank, columns) and b (rows, rank).
  std::optional<size_t> lora_a = {}, lora_b = {};
  float lora_scale = 0;
};

// The two factors of a low-rank term.
struct Adapter {
  std::optional<size_t> a, b;
  float scale = 0;
};

struct ImportPlan {
  std::vector<Recipe> recipes;              // sources are indices into theirs
  std::vector<NameNote> missing;            // ours, of a part that the layout covers, without a source
  std::vector<NameNote> unexpected;         // theirs that no row knows, or whose part this model does not have
  std::vector<NameNote> reshaped;           // ours whose source has another shape
  std::vector<NameNote> later;              // theirs, accepted: their parts do not exist yet
  std::vector<NameNote> unused;             // theirs, accepted: nothing needs them
  std::vector<NameNote> tied;               // ours made of what stands for another one, for want of a tensor of its own
  std::vector<size_t> counting;             // theirs that must be 0, 1, 2, ..., also in unused
  std::map<std::string, Adapter> adapters;  // to be merged, by the name of our weight
  int64_t beyond = 0;                       // layers of theirs beyond the depth of our tower
  int64_t outside = 0;                      // ours that the layout does not cover
};

// merge: an adapter <scope>.lora_a, .lora_b of theirs is added into <scope>.weight, times lora_scale.
struct LoraMerge {
  bool merge = false;
  float scale = 2;
};

// One public file or folder. Without a scale of its own, that of LoraMerge holds for its adapters.
struct PublicNames {
  const Layout* layout = nullptr;
  std::span<const NamedShape> names;
  std::optional<float> lora_scale = {};
};

// A plan for each file; sources count through the names of all files, one file after the other. Adapters are merged
// whichever files they and their weights are in.
// Throws DataError if two of theirs stand for one of ours, or an adapter to be merged does not fit or has no weight.
std::vector<ImportPlan> plan_imports(std::span<const PublicNames> files, std::span<const NamedShape> ours,
                                     const LoraMerge& lora);
ImportPlan plan_import(const Layout& layout, std::span<const NamedShape> theirs, std::span<const NamedShape> ours,
                       const LoraMerge& lora);

struct ExportPlan {
  std::vector<Recipe> recipes;      // sources are indices into ours, then base
  std::vector<NameNote> missing;    // patterns of theirs (names, with a base) without a tensor of ours
  std::vector<NameNote> left_out;   // ours without a name in the layout
  std::vector<NameNote> adapters;   // ours: low-rank terms of exported weights that the layout has no names for
  std::vector<NameNote> unwritten;  // without a base: patterns of theirs that nothing here needs
  std::vector<NameNote> unknown;    // copies of what no row knows
  std::vector<NameNote> added;      // with a base: names that it lacks
  std::vector<NameNote> tied;       // those among them that base has only as text, another table that stands for them
  std::vector<NameNote> zeroed;     // second factors of low-rank terms that weights here lack; text: of others, why
  int64_t from_base = 0;            // copies
  int64_t beyond = 0;               // layers beyond the depth of our tower, among these
};

// merge: adapters without a name in the layout are added into their weights.
// base: names of the public file that training started from. It decides about spellings and gives what no parameter of
// ours could: tensors of unused and later rows and of none, layers beyond the depth of a tower here. A name with a
// counterpart is never copied: it is missing if ours lacks it, and a low-rank term of a weight that has it inside
// or lacks it becomes zero (its first factor is copied, its second is zeros), as does what ours never adds (kZeros).
// Rows that import adds are left out, unless base has them too.
// Throws DataError for a tensor of ours whose shape its row cannot express or which has another one in base.
ExportPlan plan_export(const Layout& layout, std::span<const NamedShape> ours, const LoraMerge& lora,
                       const std::vector<NamedShape>* base = nullptr);

}  // namespace tpo
