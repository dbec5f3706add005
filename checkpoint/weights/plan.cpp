#include "checkpoint/weights/plan.h"

#include <algorithm>
#include <cstdlib>
#include <functional>
#include <map>
#include <set>

#include "core/error.h"
#include "core/param.h"

namespace tpo {
namespace {

using How = MapRow::How;

bool has_counterpart(const MapRow& row) {
  return row.how != How::kUnused && row.how != How::kLater && row.how != How::kZeros;
}

bool matches(const MapRow& row, const std::string& theirs) {
  return match_name(row.theirs, theirs).has_value() || glob_match(row.theirs, theirs);
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

// The shape that theirs must have for this shape of ours.
std::optional<Shape> theirs_for(const MapRow& row, const Shape& ours) {
  switch (row.how) {
    case How::kLeadingOne:
      return ours.rank() < Shape::kMaxRank ? std::optional(leading_one_of(ours)) : std::nullopt;
    case How::kPatches:
      return patches_of(ours, row.dims);
    case How::kGrown:
      if (ours.rank() < 1 || ours[0] <= row.added) return std::nullopt;
      return with_rows(ours, ours[0] - row.added);
    case How::kCounting:
      return ours.rank() < 1 ? std::nullopt : std::optional(Shape{1, ours[0]});
    case How::kZeros:
      return ours.rank() != 2 ? std::nullopt : std::optional(Shape{row.rows, ours[1]});
    default:
      return ours;
  }
}

using Index = std::map<std::string, size_t>;

Index index_of(std::span<const NamedShape> names) {
  Index index;
  for (size_t i = 0; i < names.size(); ++i) index[names[i].name] = i;
  return index;
}

// Whether a name of a tower's row is of a layer that this model's tower does not have. numbers: of the name's #.
bool beyond_tower(const MapRow& row, const std::vector<std::string>& numbers, const Index& ours) {
  if (row.spare < 0) return false;
  const std::string prefix = row.ours.substr(0, row.ours.find('#'));
  int64_t depth = 0;
  for (auto it = ours.lower_bound(prefix); it != ours.end() && it->first.starts_with(prefix); ++it)
    depth = std::max<int64_t>(depth, 1 + std::strtoll(it->first.c_str() + prefix.size(), nullptr, 10));
  return depth > 0 && (numbers[0].size() > 9 || std::stoll(numbers[0]) >= depth);
}

// One of theirs that stands for one of ours.
struct Link {
  size_t theirs = 0;
  const MapRow* row = nullptr;
};

// "x.lora_a" -> "x.weight".
std::optional<std::string> weight_of_adapter(const std::string& name) {
  for (const char* end : {".lora_a", ".lora_b"}) {
    if (name.ends_with(end)) return name.substr(0, name.size() - std::string_view(end).size()) + ".weight";
  }
  return std::nullopt;
}

// What one of ours is made of; a note instead if the shapes do not allow it.
std::optional<Recipe> recipe_of(const NamedShape& ours, const Link& link, const NamedShape& theirs,
                                std::string& problem) {
  const MapRow& row = *link.row;
  Recipe r{.name = ours.name, .shape = ours.shape, .source = link.theirs};
  // A grown table's source may have the added rows.
  const bool has_rows = row.how == How::kGrown && theirs.shape == ours.shape;
  if (!has_rows && theirs_for(row, ours.shape) != theirs.shape) {
    problem = cat(ours.name, " ", ours.shape, " here, ", theirs.name, " ", theirs.shape, " there");
    if (weight_of_adapter(ours.name))
      problem +=
          ": for adapters of another rank, set model.language.lora_rank, or give --merge_lora and --allow-missing";
    return std::nullopt;
  }
  if (row.how == How::kGrown && !has_rows) r.mean_rows = row.added;
  if (row.how == How::kPatches) r.order = Recipe::Order::kColoursLast;
  return r;
}

using ShapeOf = std::function<const Shape&(size_t source)>;

// Throws DataError if the two factors do not fit the weight.
void attach(Recipe& r, const Adapter& adapter, const ShapeOf& shape_of) {
  check<DataError>(adapter.a && adapter.b, "the low-rank term of ", r.name, " has only one of its two factors");
  const Shape &a = shape_of(*adapter.a), &b = shape_of(*adapter.b);
  // A grown weight whose adapter is not: the low-rank term of the mean is the mean of its rows.
  const bool fits = a.rank() == 2 && b.rank() == 2 && a[0] == b[1] && r.shape.rank() == 2 && a[1] == r.shape[1] &&
                    b[0] == r.shape[0] - r.mean_rows;
  check<DataError>(fits, "the low-rank term of ", r.name, " ", r.shape, " has factors ", a, " and ", b);
  r.lora_a = adapter.a, r.lora_b = adapter.b, r.lora_scale = adapter.scale;
}

class Importer {
 public:
  // first: of this file's names among those of all files.
  Importer(const PublicNames& file, size_t first, std::span<const NamedShape> ours, const Index& index,
           const LoraMerge& lora)
      : layout_(*file.layout), theirs_(file.names), first_(first), ours_(ours), index_(index), lora_(lora) {
    lora_.scale = file.lora_scale.value_or(lora.scale);
  }

  ImportPlan run() {
    for (size_t t = 0; t < theirs_.size(); ++t) place(t);
    judge_beyond();
    for (size_t o = 0; o < ours_.size(); ++o) make(o);
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
        Adapter& adapter = plan_.adapters[*weight];
        std::optional<size_t>& factor = ours.ends_with("a") ? adapter.a : adapter.b;
        check<DataError>(!factor, name, " and another tensor both stand for ", ours);
        factor = first_ + t, adapter.scale = lora_.scale;
        placed = true;
      } else if (const auto it = index_.find(ours); it != index_.end()) {
        placed = true;
        if (row.how == How::kCounting) {
          plan_.unused.push_back({name, "computed"});
          plan_.counting.push_back(first_ + t);
        } else {
          links_[it->second].push_back({first_ + t, &row});
        }
      } else if (beyond_tower(row, *numbers, index_)) {
        beyond_.push_back(name), layers_.insert(numbers->front()), spare_ = row.spare;
        return;
      } else {
        unknown = cat("this model has no ", ours);
      }
    }
    if (!placed) plan_.unexpected.push_back({name, unknown});
  }

  // A tower may lose the layers that its layout names; a model whose tower is cut further is another one.
  void judge_beyond() {
    plan_.beyond = static_cast<int64_t>(layers_.size());
    std::vector<NameNote>& fate = plan_.beyond > spare_ ? plan_.unexpected : plan_.unused;
    for (const std::string& name : beyond_) fate.push_back({name, "beyond the depth of this model's tower"});
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
    std::vector<Link>& links = found->second;
    const auto fallback = [](const Link& l) { return l.row->fallback; };
    if (!std::all_of(links.begin(), links.end(), fallback)) std::erase_if(links, fallback);
    const auto name = [&](const Link& l) { return theirs_[l.theirs - first_].name; };
    check<DataError>(links.front().theirs == links.back().theirs, name(links.front()), " and ", name(links.back()),
                     " both stand for ", ours.name);
    std::string problem;
    std::optional<Recipe> r = recipe_of(ours, links.front(), theirs_[links.front().theirs - first_], problem);
    if (!r) {
      plan_.reshaped.push_back({ours.name, problem});
      return;
    }
    if (fallback(links.front())) plan_.tied.push_back({ours.name, cat("from ", name(links.front()))});
    plan_.recipes.push_back(std::move(*r));
  }

  const Layout& layout_;
  std::span<const NamedShape> theirs_;
  size_t first_;
  std::span<const NamedShape> ours_;
  const Index& index_;  // of ours
  LoraMerge lora_;
  std::map<size_t, std::vector<Link>> links_;  // by ours
  std::vector<std::string> beyond_;            // theirs of layers that our tower lacks
  std::set<std::string> layers_;               // their numbers
  int spare_ = 0;
  ImportPlan plan_;
};

// What one file has only for want of better gives way to another file's.
void drop_needless_ties(std::vector<ImportPlan>& plans) {
  for (ImportPlan& plan : plans) {
    std::erase_if(plan.tied, [&](const NameNote& tie) {
      const auto same = [&](const Recipe& r) { return r.name == tie.name; };
      const bool other = std::any_of(plans.begin(), plans.end(), [&](const ImportPlan& p) {
        return &p != &plan && std::any_of(p.recipes.begin(), p.recipes.end(), same);
      });
      if (other) std::erase_if(plan.recipes, same);
      return other;
    });
  }
}

void merge_adapters(std::vector<ImportPlan>& plans, const ShapeOf& shape_of) {
  std::map<std::string, Recipe*> made;
  std::map<std::string, Adapter> adapters;
  for (ImportPlan& plan : plans) {
    for (Recipe& r : plan.recipes) made[r.name] = &r;
    for (const auto& [weight, adapter] : plan.adapters)
      check<DataError>(adapters.emplace(weight, adapter).second, "two files have a low-rank term of ", weight);
  }
  for (const auto& [weight, adapter] : adapters) {
    const auto it = made.find(weight);
    check<DataError>(it != made.end(), "a low-rank term is to be merged into ", weight,
                     ", which has no source of its shape; give the file that has it with another --from");
    attach(*it->second, adapter, shape_of);
  }
}

// What the row makes of one of ours. Throws DataError if it cannot.
Recipe export_recipe(const MapRow& row, const std::string& name, const NamedShape& ours, size_t source) {
  const std::optional<Shape> shape = theirs_for(row, ours.shape);
  check<DataError>(shape.has_value(), ours.name, " ", ours.shape, " cannot become ", name,
                   row.how == How::kPatches ? ": its rows are no square patches of 3 colours"
                   : row.how == How::kGrown ? cat(": it has no ", row.added, " added rows")
                                            : std::string(": it has other dims"));
  Recipe r{.name = name, .shape = *shape, .source = source};
  r.counting = row.how == How::kCounting, r.zeros = row.how == How::kZeros;
  if (row.how == How::kPatches) r.order = Recipe::Order::kColoursFirst;
  return r;
}

class Exporter {
 public:
  Exporter(const Layout& layout, std::span<const NamedShape> ours, const LoraMerge& lora)
      : layout_(layout), ours_(ours), lora_(lora), index_(index_of(ours)) {}

  ExportPlan run(const std::vector<NamedShape>* base) {
    for (size_t o = 0; o < ours_.size(); ++o) place(o);
    for (const auto& [weight, adapter] : adapters_) merge(weight, adapter);
    if (base != nullptr) {
      add_base(*base);
      return std::move(plan_);
    }
    for (const MapRow& row : layout_.rows) {
      if (row.import_only) continue;
      if (row.how == How::kLater) plan_.missing.push_back({row.theirs, row.why});
      if (row.how == How::kUnused) plan_.unwritten.push_back({row.theirs, row.why});
      if (has_counterpart(row) && !used_.contains(&row)) plan_.missing.push_back({row.theirs, ""});
    }
    return std::move(plan_);
  }

 private:
  void place(size_t o) {
    const std::string& ours = ours_[o].name;
    bool placed = false;
    for (const MapRow& row : layout_.rows) {
      const auto numbers = row.ours.empty() ? std::nullopt : match_name(row.ours, ours);
      if (!numbers) continue;
      used_.insert(&row);
      if (row.import_only) continue;
      placed = true;
      const std::string name = fill_name(row.theirs, *numbers);
      if (!names_.insert(name).second) continue;
      const Recipe& r = plan_.recipes.emplace_back(export_recipe(row, name, ours_[o], o));
      if (!r.counting && !r.zeros) made_[ours] = plan_.recipes.size() - 1;
      if (row.how == How::kGrown) grown_.insert(o);
    }
    if (placed) return;
    if (const auto weight = weight_of_adapter(ours)) {
      (ours.ends_with("a") ? adapters_[*weight].a : adapters_[*weight].b) = o;
    } else {
      plan_.left_out.push_back({ours, ""});
    }
  }

  // An adapter without names of theirs.
  void merge(const std::string& weight, Adapter adapter) {
    const auto made = made_.find(weight);
    for (const auto& factor : {adapter.a, adapter.b}) {
      if (factor) (made == made_.end() ? plan_.left_out : plan_.adapters).push_back({ours_[*factor].name, ""});
    }
    if (made == made_.end() || !lora_.merge) return;
    Recipe& target = plan_.recipes[made->second];
    Recipe whole = target;
    // The factors fit the weight as we have it; rows that theirs lacks are not asked for.
    whole.shape = ours_[target.source].shape;
    adapter.scale = lora_.scale;
    attach(whole, adapter, [&](size_t i) -> const Shape& { return ours_[i].shape; });
    target.lora_a = whole.lora_a, target.lora_b = whole.lora_b, target.lora_scale = whole.lora_scale;
  }

  void add_base(const std::vector<NamedShape>& base) {
    const Index in_base = index_of(base);
    // Ids that some versions of transformers store and others compute are written if base has them.
    std::erase_if(plan_.recipes, [&](const Recipe& r) { return r.zeros || (r.counting && !in_base.contains(r.name)); });
    made_.clear();
    std::set<std::string> written;
    for (size_t i = 0; i < plan_.recipes.size(); ++i) {
      const Recipe& r = plan_.recipes[i];
      if (!r.counting) made_[ours_[r.source].name] = i;
      written.insert(r.name);
    }
    for (size_t i = 0; i < base.size(); ++i) {
      if (!written.contains(base[i].name)) take(base[i], ours_.size() + i, in_base);
    }
    for (Recipe& r : plan_.recipes) {
      const auto it = in_base.find(r.name);
      if (it != in_base.end() && grown_.contains(r.source) && base[it->second].shape == ours_[r.source].shape)
        r.shape = ours_[r.source].shape;  // base has the added rows
      check<DataError>(it == in_base.end() || base[it->second].shape == r.shape, "tensor ", r.name, " is ",
                       it == in_base.end() ? r.shape : base[it->second].shape, " in the base and would be written as ",
                       r.shape,
                       weight_of_adapter(ours_of(r)) ? ": adapters of another rank go out without a base" : "");
      if (it == in_base.end()) add(r, in_base);
    }
  }

  std::string ours_of(const Recipe& r) const { return r.source < ours_.size() ? ours_[r.source].name : ""; }

  // A name that base lacks. If another one there stands for both, whoever reads the file may never look at it.
  void add(const Recipe& r, const Index& in_base) {
    plan_.added.push_back({r.name, ""});
    for (const MapRow& row : layout_.rows) {
      const auto numbers = row.fallback ? match_name(row.ours, ours_[r.source].name) : std::nullopt;
      if (!numbers) continue;
      const std::string other = fill_name(row.theirs, *numbers);
      if (in_base.contains(other)) plan_.tied.push_back({r.name, other});
    }
  }

  // What becomes of a name of base under which nothing of ours is written.
  void take(const NamedShape& base, size_t source, const Index& in_base) {
    bool known = false;
    for (const MapRow& row : layout_.rows) {
      if (!has_counterpart(row)) {
        if (!matches(row, base.name)) continue;
        return row.how == How::kZeros ? zero(base, source, row.why) : copy(base, source);
      }
      const auto numbers = match_name(row.theirs, base.name);
      if (!numbers) continue;
      known = true;
      const std::string ours = fill_name(row.ours, *numbers);
      if (const auto it = made_.find(ours); it != made_.end()) {
        Recipe& r = plan_.recipes[it->second];
        if (row.how == How::kCounting) return copy(base, source);
        if (row.fallback || in_base.contains(r.name)) continue;
        r.name = base.name;  // another spelling
        return;
      }
      if (beyond_tower(row, *numbers, index_)) {
        if (layers_.insert(numbers->front()).second) ++plan_.beyond;
        return copy(base, source);
      }
      const auto weight = weight_of_adapter(ours);
      if (!weight || !index_.contains(*weight) || index_.contains(ours)) continue;
      return ours.ends_with("a") ? copy(base, source) : zero(base, source, "");
    }
    if (known) {
      plan_.missing.push_back({base.name, ""});
    } else {
      plan_.unknown.push_back({base.name, ""});
      copy(base, source);
    }
  }

  void zero(const NamedShape& base, size_t source, const std::string& why) {
    plan_.recipes.push_back({.name = base.name, .shape = base.shape, .source = source, .zeros = true});
    plan_.zeroed.push_back({base.name, why});
  }

  void copy(const NamedShape& base, size_t source) {
    plan_.recipes.push_back({.name = base.name, .shape = base.shape, .source = source});
    ++plan_.from_base;
  }

  const Layout& layout_;
  std::span<const NamedShape> ours_;
  LoraMerge lora_;
  Index index_;  // of ours
  std::set<const MapRow*> used_;
  std::set<std::string> names_, layers_;     // layers_: numbers of those beyond our tower
  std::set<size_t> grown_;                   // ours with rows that theirs may lack
  std::map<std::string, size_t> made_;       // the recipe of one of ours
  std::map<std::string, Adapter> adapters_;  // without names of theirs, by our weight
  ExportPlan plan_;
};

}  // namespace

std::vector<ImportPlan> plan_imports(std::span<const PublicNames> files, std::span<const NamedShape> ours,
                                     const LoraMerge& lora) {
  const Index index = index_of(ours);
  std::vector<ImportPlan> plans;
  std::vector<const Shape*> shapes;
  for (const PublicNames& file : files) {
    plans.push_back(Importer(file, shapes.size(), ours, index, lora).run());
    for (const NamedShape& n : file.names) shapes.push_back(&n.shape);
  }
  drop_needless_ties(plans);
  merge_adapters(plans, [&](size_t i) -> const Shape& { return *shapes[i]; });
  return plans;
}

ImportPlan plan_import(const Layout& layout, std::span<const NamedShape> theirs, std::span<const NamedShape> ours,
                       const LoraMerge& lora) {
  const PublicNames file{&layout, theirs};
  return std::move(plan_imports({&file, 1}, ours, lora).front());
}

ExportPlan plan_export(const Layout& layout, std::span<const NamedShape> ours, const LoraMerge& lora,
                       const std::vector<NamedShape>* base) {
  return Exporter(layout, ours, lora).run(base);
}

}  // namespace tpo
