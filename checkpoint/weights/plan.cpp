#include "checkpoint/weights/plan.h"

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "core/param.h"

namespace tpo {
namespace {

using How = MapRow::How;

bool has_counterpart(const MapRow& row) { return row.how != How::kUnused && row.how != How::kLater; }

bool matches(const MapRow& row, const std::string& theirs) {
  return match_name(row.theirs, theirs).has_value() || glob_match(row.theirs, theirs);
}

int64_t columns(const Shape& s) {
  int64_t n = 1;
  for (int i = 1; i < s.rank(); ++i) n *= s[i];
  return n;
}

Shape with_rows(const Shape& s, int64_t rows) {
  Shape out{rows};
  for (int i = 1; i < s.rank(); ++i) out.push_back(s[i]);
  return out;
}

Shape leading_one_of(const Shape& s) {
  Shape out{1};
  for (int i = 0; i < s.rank(); ++i) out.push_back(s[i]);
  return out;
}

// (O, 3, p, p) or (O, 3, 1, p, p) whose patches have as many elements as a row of ours, if there is such a p.
std::optional<Shape> patches_of(const Shape& ours, int dims) {
  if (ours.rank() != 2 || ours[1] % 3 != 0) return std::nullopt;
  int64_t side = 1;
  while (side * side < ours[1] / 3) ++side;
  if (side * side * 3 != ours[1]) return std::nullopt;
  return dims == 5 ? Shape{ours[0], 3, 1, side, side} : Shape{ours[0], 3, side, side};
}

// The shape that theirs must have for this shape of ours, parts aside.
std::optional<Shape> theirs_for(const MapRow& row, const Shape& ours) {
  switch (row.how) {
    case How::kLeadingOne:
      return ours.rank() < Shape::kMaxRank ? std::optional(leading_one_of(ours)) : std::nullopt;
    case How::kPatches:
      return patches_of(ours, row.dims);
    case How::kGrown:
      if (ours.rank() < 1 || ours[0] <= row.added) return std::nullopt;
      return with_rows(ours, ours[0] - row.added);
    case How::kPart:
      if (ours.rank() < 1 || ours[0] % row.parts != 0) return std::nullopt;
      return with_rows(ours, ours[0] / row.parts);
    case How::kCounting:
      return ours.rank() < 1 ? std::nullopt : std::optional(Shape{1, ours[0]});
    default:
      return ours;
  }
}

// One of theirs that stands for one of ours or a part of it.
struct Link {
  size_t theirs = 0;
  const MapRow* row = nullptr;
};

// What one of ours is made of; a note instead if the shapes do not allow it.
std::optional<Recipe> recipe_of(const NamedShape& ours, std::vector<Link> links, std::span<const NamedShape> theirs,
                                std::string& problem) {
  std::sort(links.begin(), links.end(), [](const Link& a, const Link& b) { return a.row->part < b.row->part; });
  Recipe r{.name = ours.name, .shape = ours.shape, .pieces = {}, .lora_a = {}, .lora_b = {}};
  int64_t rows = 0;
  for (const Link& link : links) {
    const MapRow& row = *link.row;
    const NamedShape& t = theirs[link.theirs];
    bool fits = row.how == How::kPart
                    ? t.shape.rank() >= 1 && ours.shape.rank() >= 1 && with_rows(t.shape, 0) == with_rows(ours.shape, 0)
                    : theirs_for(row, ours.shape) == t.shape;
    if (row.how == How::kGrown && t.shape == ours.shape) {
      fits = true;  // theirs has the added rows
    } else if (row.how == How::kGrown && fits) {
      r.mean_rows = row.added;
    }
    if (row.how == How::kPatches) r.order = Recipe::Order::kColoursLast;
    if (!fits) problem = cat(ours.name, " ", ours.shape, " here, ", t.name, " ", t.shape, " there");
    r.pieces.push_back({link.theirs, 0, rows * columns(ours.shape), t.shape.numel()});
    rows += t.shape.rank() > 0 ? t.shape[0] : 1;
  }
  const bool parts = links.front().row->how == How::kPart;
  if (parts && problem.empty() && rows != ours.shape[0])
    problem = cat(ours.name, " ", ours.shape, " here, parts with ", rows, " rows there");
  if (!problem.empty()) return std::nullopt;
  return r;
}

struct Adapter {
  std::optional<size_t> a, b;
};

// "x.lora_a" -> "x.weight".
std::optional<std::string> weight_of_adapter(const std::string& name) {
  for (const char* end : {".lora_a", ".lora_b"}) {
    if (name.ends_with(end)) return name.substr(0, name.size() - std::string_view(end).size()) + ".weight";
  }
  return std::nullopt;
}

// Throws DataError if the two factors do not fit the weight.
void attach(Recipe& r, const Adapter& adapter, std::span<const NamedShape> sources, float scale) {
  check<DataError>(adapter.a && adapter.b, "the low-rank term of ", r.name, " has only one of its two factors");
  const Shape &a = sources[*adapter.a].shape, &b = sources[*adapter.b].shape;
  // A grown weight whose adapter is not: the low-rank term of the mean is the mean of its rows.
  const bool fits = a.rank() == 2 && b.rank() == 2 && a[0] == b[1] && r.shape.rank() == 2 && a[1] == r.shape[1] &&
                    b[0] == r.shape[0] - r.mean_rows;
  check<DataError>(fits, "the low-rank term of ", r.name, " ", r.shape, " has factors ", a, " and ", b);
  r.lora_a = adapter.a, r.lora_b = adapter.b, r.lora_scale = scale;
}

class Importer {
 public:
  Importer(const Layout& layout, std::span<const NamedShape> theirs, std::span<const NamedShape> ours,
           const LoraMerge& lora)
      : layout_(layout), theirs_(theirs), ours_(ours), lora_(lora) {
    for (size_t i = 0; i < ours.size(); ++i) index_[ours[i].name] = i;
  }

  ImportPlan run() {
    for (size_t t = 0; t < theirs_.size(); ++t) place(t);
    for (size_t o = 0; o < ours_.size(); ++o) make(o);
    for (const auto& [weight, adapter] : adapters_) {
      const std::string& name = theirs_[adapter.a ? *adapter.a : *adapter.b].name;
      check<DataError>(merged_.contains(weight), name, " is to be merged into ", weight,
                       ", which has no source of its shape");
    }
    return std::move(plan_);
  }

 private:
  // Finds what of ours this one of theirs stands for.
  void place(size_t t) {
    const std::string& name = theirs_[t].name;
    std::string unknown = "no row of the layout";
    bool placed = false;
    for (const MapRow& row : layout_.rows) {
      if (!has_counterpart(row)) {
        if (!matches(row, name)) continue;
        (row.how == How::kLater ? plan_.later : plan_.unused).push_back({name, row.why});
        return;
      }
      const auto numbers = match_name(row.theirs, name);
      if (!numbers) continue;
      const std::string ours = fill_name(row.ours, *numbers);
      const std::optional<std::string> weight = lora_.merge ? weight_of_adapter(ours) : std::nullopt;
      if (weight && index_.contains(*weight)) {
        (ours.ends_with("a") ? adapters_[*weight].a : adapters_[*weight].b) = t;
        placed = true;
      } else if (const auto it = index_.find(ours); it != index_.end()) {
        placed = true;
        if (row.how == How::kCounting) {
          plan_.unused.push_back({name, "computed"});
          plan_.counting.push_back(t);
        } else {
          links_[it->second].push_back({t, &row});
        }
      } else {
        unknown = cat("this model has no ", ours);
      }
    }
    if (!placed) plan_.unexpected.push_back({name, unknown});
  }

  bool covered(const std::string& ours) const {
    return std::any_of(layout_.rows.begin(), layout_.rows.end(), [&](const MapRow& row) {
      return has_counterpart(row) && match_name(row.ours, ours).has_value();
    });
  }

  void make(size_t o) {
    const NamedShape& ours = ours_[o];
    const auto found = links_.find(o);
    if (found == links_.end()) {
      if (covered(ours.name)) {
        plan_.missing.push_back({ours.name, ""});
      } else {
        ++plan_.outside;
      }
      return;
    }
    std::vector<Link> links = found->second;
    std::set<int> parts;
    for (const Link& link : links) {
      const auto same_part = [&](const Link& l) { return l.row->part == link.row->part && l.theirs != link.theirs; };
      const auto other = std::find_if(links.begin(), links.end(), same_part);
      check<DataError>(other == links.end(), theirs_[link.theirs].name, " and ",
                       other == links.end() ? "" : theirs_[other->theirs].name, " both stand for ", ours.name);
      parts.insert(link.row->part);
    }
    const int wanted = links.front().row->parts;
    if (static_cast<int>(parts.size()) != wanted) {
      plan_.missing.push_back({ours.name, cat(parts.size(), " of its ", wanted, " parts")});
      return;
    }
    std::string problem;
    std::optional<Recipe> r = recipe_of(ours, std::move(links), theirs_, problem);
    if (!r) {
      plan_.reshaped.push_back({ours.name, problem});
      return;
    }
    if (const auto it = adapters_.find(ours.name); it != adapters_.end()) {
      attach(*r, it->second, theirs_, lora_.scale);
      merged_.insert(ours.name);
    }
    plan_.recipes.push_back(std::move(*r));
  }

  const Layout& layout_;
  std::span<const NamedShape> theirs_, ours_;
  LoraMerge lora_;
  std::map<std::string, size_t> index_;
  std::map<size_t, std::vector<Link>> links_;  // by ours
  std::map<std::string, Adapter> adapters_;    // to be merged, by the name of our weight
  std::set<std::string> merged_;
  ImportPlan plan_;
};

// What the row makes of one of ours. Throws DataError if it cannot.
Recipe export_recipe(const MapRow& row, const std::string& name, const NamedShape& ours, size_t source) {
  const std::optional<Shape> shape = theirs_for(row, ours.shape);
  check<DataError>(shape.has_value(), ours.name, " ", ours.shape, " cannot become ", name,
                   row.how == How::kPatches ? ": its rows are no square patches of 3 colours"
                   : row.how == How::kGrown ? cat(": it has no ", row.added, " added rows")
                                            : cat(": its rows are not ", row.parts, " equal parts"));
  Recipe r{.name = name, .shape = *shape, .pieces = {}, .lora_a = {}, .lora_b = {}};
  r.counting = row.how == How::kCounting;
  if (row.how == How::kPatches) r.order = Recipe::Order::kColoursFirst;
  if (!r.counting) r.pieces.push_back({source, row.part * shape->numel(), 0, shape->numel()});
  return r;
}

}  // namespace

ImportPlan plan_import(const Layout& layout, std::span<const NamedShape> theirs, std::span<const NamedShape> ours,
                       const LoraMerge& lora) {
  return Importer(layout, theirs, ours, lora).run();
}

ExportPlan plan_export(const Layout& layout, std::span<const NamedShape> ours, const LoraMerge& lora) {
  ExportPlan plan;
  std::set<const MapRow*> used;
  std::set<std::string> names;
  std::map<std::string, Adapter> adapters;         // without names of theirs, by our weight
  std::map<std::string, std::string> exported_as;  // our weight: what of theirs it became
  for (size_t o = 0; o < ours.size(); ++o) {
    bool placed = false;
    for (const MapRow& row : layout.rows) {
      const auto numbers = has_counterpart(row) ? match_name(row.ours, ours[o].name) : std::nullopt;
      if (!numbers) continue;
      used.insert(&row);
      if (row.import_only) continue;
      placed = true;
      const std::string name = fill_name(row.theirs, *numbers);
      if (!names.insert(name).second) continue;
      plan.recipes.push_back(export_recipe(row, name, ours[o], o));
      if (row.how == How::kSame || row.how == How::kGrown) exported_as[ours[o].name] = name;
    }
    if (placed) continue;
    if (const auto weight = weight_of_adapter(ours[o].name)) {
      (ours[o].name.ends_with("a") ? adapters[*weight].a : adapters[*weight].b) = o;
    } else {
      plan.left_out.push_back({ours[o].name, ""});
    }
  }
  for (const auto& [weight, adapter] : adapters) {
    const auto target = exported_as.find(weight);
    for (const auto& factor : {adapter.a, adapter.b}) {
      if (factor) (target == exported_as.end() ? plan.left_out : plan.adapters).push_back({ours[*factor].name, ""});
    }
    if (target == exported_as.end() || !lora.merge) continue;
    const auto made = std::find_if(plan.recipes.begin(), plan.recipes.end(),
                                   [&](const Recipe& r) { return r.name == target->second; });
    Recipe whole = *made;
    // The factors fit the weight as we have it; rows that theirs lacks are not asked for.
    whole.shape = ours[made->pieces.front().source].shape;
    attach(whole, adapter, ours, lora.scale);
    made->lora_a = whole.lora_a, made->lora_b = whole.lora_b, made->lora_scale = whole.lora_scale;
  }
  for (const MapRow& row : layout.rows) {
    if (row.how == How::kLater) plan.missing.push_back({row.theirs, row.why});
    if (has_counterpart(row) && !row.import_only && !used.contains(&row)) plan.missing.push_back({row.theirs, ""});
  }
  return plan;
}

}  // namespace tpo
