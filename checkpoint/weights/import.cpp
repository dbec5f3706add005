#include "checkpoint/weights/import.h"

#include <algorithm>
#include <map>
#include <set>

#include "core/error.h"
#include "core/param.h"

namespace tpo {

struct WeightImport::Source {
  Source(const std::string& path, const std::string& layout_name)
      : path(path), layout(layout_of(layout_name)), reader(path) {
    for (const auto& [name, entry] : reader.tensors()) theirs.push_back({name, entry.tensor.shape});
  }

  std::string path;
  Layout layout;
  SafetensorsReader reader;
  std::vector<NamedShape> theirs;
};

namespace {

SafeType type_for(const Maker& maker, const Recipe& recipe, std::optional<DType> wish) {
  const SafeType natural = maker.natural_type(recipe);
  if (!wish) return natural == SafeType::kF16 ? SafeType::kF32 : natural;
  return *wish == DType::kBF16 ? SafeType::kBF16 : SafeType::kF32;
}

class RecipeBytes final : public TensorBytes {
 public:
  RecipeBytes(Maker& maker, const Recipe& recipe, SafeType type, bool may_overflow)
      : maker_(maker), recipe_(recipe), type_(type), may_overflow_(may_overflow) {}
  DType dtype() const override { return type_ == SafeType::kBF16 ? DType::kBF16 : DType::kF32; }
  void read(int64_t first, std::span<std::byte> out) override {
    maker_.fill(recipe_, type_, first, out);
    check_overflows(may_overflow_, maker_.overflows(), recipe_.name, type_);
  }

 private:
  Maker& maker_;
  const Recipe& recipe_;
  SafeType type_;
  bool may_overflow_;
};

// Such a tensor is left away and made again by export: it must not say anything else.
void check_counting(const WeightSource& s) {
  check<DataError>(s.type == SafeType::kI64 && s.shape.numel() <= 1 << 20, "tensor ", s.name, " ", told(s),
                   " must be I64 and count positions");
  std::vector<int64_t> values(static_cast<size_t>(s.shape.numel()));
  s.read(0, std::as_writable_bytes(std::span(values)));
  for (size_t i = 0; i < values.size(); ++i) {
    check<DataError>(values[i] == static_cast<int64_t>(i), "tensor ", s.name, " does not count positions: element ", i,
                     " is ", values[i]);
  }
}

// What patterns allow in one line, what they do not in a line each.
void list(std::vector<std::string>& lines, const std::string& what, const std::vector<NameNote>& notes,
          const std::vector<std::string>& patterns) {
  constexpr size_t kShown = 5;
  std::string allowed;
  size_t count = 0;
  for (const NameNote& n : notes) {
    if (std::any_of(patterns.begin(), patterns.end(), [&](const auto& p) { return glob_match(p, n.name); })) {
      if (++count <= kShown) allowed += " " + n.name;
    } else {
      lines.push_back(cat(what, ": ", n.name, n.text.empty() ? "" : " (" + n.text + ")"));
    }
  }
  if (count > 0) lines.push_back(cat(what, ", allowed, ", count, ":", allowed, count > kShown ? " ..." : ""));
}

}  // namespace

WeightImport::WeightImport(const std::vector<std::pair<std::string, std::string>>& sources,
                           const std::vector<NamedShape>& ours, const WeightsImportOptions& options)
    : options_(options) {
  std::vector<PublicNames> files;
  for (const auto& [path, layout] : sources) {
    sources_.push_back(std::make_unique<Source>(path, layout));
    Source& s = *sources_.back();
    files.push_back({&s.layout, s.theirs});
    for (const auto& [name, entry] : s.reader.tensors()) tensors_.push_back(source_of(s.reader, entry));
  }
  plans_ = plan_imports(files, ours, options.lora);
  maker_ = std::make_unique<Maker>(tensors_);
  std::map<std::string, std::string> made;
  for (size_t i = 0; i < plans_.size(); ++i) {
    for (const Recipe& r : plans_[i].recipes) {
      const auto [other, first] = made.try_emplace(r.name, sources[i].first);
      check<DataError>(first, other->second, " and ", sources[i].first, " both give ", r.name);
    }
  }
}

WeightImport::~WeightImport() = default;

// Of parts that any source's layout covers, what no source gives.
std::vector<NameNote> WeightImport::missing() const {
  std::set<std::string> made;
  std::map<std::string, NameNote> notes;
  for (const ImportPlan& plan : plans_) {
    for (const Recipe& r : plan.recipes) made.insert(r.name);
    for (const NameNote& n : plan.reshaped) made.insert(n.name);  // listed as such
    for (const NameNote& n : plan.missing) notes.emplace(n.name, n);
  }
  std::vector<NameNote> out;
  for (const auto& [name, note] : notes) {
    if (!made.contains(name)) out.push_back(note);
  }
  return out;
}

std::vector<std::string> WeightImport::report() const {
  std::vector<std::string> lines;
  size_t merged = 0;
  for (size_t i = 0; i < plans_.size(); ++i) {
    const Source& s = *sources_[i];
    const ImportPlan& plan = plans_[i];
    std::map<std::string, int64_t> later;
    for (const NameNote& n : plan.later) ++later[n.text];
    lines.push_back(cat(s.path, " (", s.layout.name, "): ", s.reader.files().size(), " files, ", s.theirs.size(),
                        " tensors, ", s.reader.data_bytes(), " bytes; ", plan.recipes.size(), " parameters of ours, ",
                        plan.unused.size(), " tensors not needed, ", plan.later.size(),
                        " of parts that do not exist yet"));
    for (const auto& [part, count] : later) lines.push_back(cat("part not built yet: ", part, ", ", count, " tensors"));
    if (plan.beyond > 0) lines.push_back(cat(plan.beyond, " layers beyond the depth of this model's tower"));
    list(lines, "tied", plan.tied, {});
    list(lines, "unexpected", plan.unexpected, options_.allow_unexpected);
    list(lines, "other shape", plan.reshaped, options_.allow_shape);
    merged += plan.adapters.size();
  }
  if (options_.lora.merge)
    lines.push_back(merged > 0 ? cat("adapters merged into their weights: ", merged)
                               : "no file has adapters: nothing to merge");
  list(lines, "missing", missing(), options_.allow_missing);
  return lines;
}

void WeightImport::require_fit() const {
  std::string message;
  std::vector<NameNote> unexpected, reshaped;
  for (const ImportPlan& plan : plans_) {
    for (const NameNote& n : plan.unexpected) unexpected.push_back({n.name, n.name + " (" + n.text + ")"});
    reshaped.insert(reshaped.end(), plan.reshaped.begin(), plan.reshaped.end());
    for (const Recipe& r : plan.recipes) maker_->natural_type(r);
    for (const size_t t : plan.counting) check_counting(tensors_[t]);
  }
  sift(missing(), options_.allow_missing, "parameters without a source (--allow-missing)", message);
  sift(unexpected, options_.allow_unexpected, "tensors without a place (--allow-unexpected)", message);
  sift(reshaped, options_.allow_shape, "of another shape (--allow-shape)", message);
  check<ConfigError>(message.empty(), "these weights do not fit this model", message);
}

std::vector<StateTensor> WeightImport::tensors() const {
  std::vector<StateTensor> out;
  for (const ImportPlan& plan : plans_) {
    for (const Recipe& r : plan.recipes) {
      const SafeType type = type_for(*maker_, r, options_.dtype);
      out.push_back(
          {r.name, {}, r.shape, 0, {}, std::make_shared<RecipeBytes>(*maker_, r, type, options_.allow_overflow)});
    }
  }
  return out;
}

int64_t WeightImport::bytes() const {
  int64_t sum = 0;
  for (const ImportPlan& plan : plans_)
    for (const Recipe& r : plan.recipes) sum += r.shape.numel() * width_of(type_for(*maker_, r, options_.dtype));
  return sum;
}

int64_t WeightImport::bytes_read() const {
  int64_t sum = 0;
  for (const auto& s : sources_) sum += s->reader.bytes_read();
  return sum;
}

}  // namespace tpo
