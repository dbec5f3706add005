#include "checkpoint/weights/import.h"

#include <map>
#include <set>

#include "core/error.h"

namespace tpo {

struct WeightImport::Source {
  Source(const std::string& path, const std::string& layout_name)
      : path(path), layout(layout_of(layout_name)), reader(path) {
    for (const auto& [name, entry] : reader.tensors()) {
      theirs.push_back({name, entry.tensor.shape});
      const int64_t width = width_of(entry.tensor.type);
      tensors.push_back({name, entry.tensor.type, entry.tensor.shape,
                         [this, e = &entry, width](int64_t first, std::span<std::byte> out) {
                           reader.read(*e, first * width, out);
                         }});
    }
  }

  std::string path;
  Layout layout;
  SafetensorsReader reader;
  std::vector<NamedShape> theirs;
  std::vector<WeightSource> tensors;  // as theirs
  ImportPlan plan;
  Maker maker{tensors};
};

namespace {

SafeType type_for(const Maker& maker, const Recipe& recipe, std::optional<DType> wish) {
  const SafeType natural = maker.natural_type(recipe);
  if (!wish) return natural == SafeType::kF16 ? SafeType::kF32 : natural;
  return *wish == DType::kBF16 ? SafeType::kBF16 : SafeType::kF32;
}

class RecipeBytes final : public TensorBytes {
 public:
  RecipeBytes(Maker& maker, const Recipe& recipe, SafeType type) : maker_(maker), recipe_(recipe), type_(type) {}
  DType dtype() const override { return type_ == SafeType::kBF16 ? DType::kBF16 : DType::kF32; }
  void read(int64_t first, std::span<std::byte> out) override { maker_.fill(recipe_, type_, first, out); }

 private:
  Maker& maker_;
  const Recipe& recipe_;
  SafeType type_;
};

// Such a tensor is left away and made again by export: it must not say anything else.
void check_counting(const WeightSource& s) {
  check<DataError>(s.type == SafeType::kI64 && s.shape.numel() <= 1 << 20, "tensor ", s.name, " ", s.type, s.shape,
                   " must be I64 and count positions");
  std::vector<int64_t> values(static_cast<size_t>(s.shape.numel()));
  s.read(0, std::as_writable_bytes(std::span(values)));
  for (size_t i = 0; i < values.size(); ++i) {
    check<DataError>(values[i] == static_cast<int64_t>(i), "tensor ", s.name, " does not count positions: element ", i,
                     " is ", values[i]);
  }
}

void list(std::vector<std::string>& lines, const char* what, const std::vector<NameNote>& notes) {
  for (const NameNote& n : notes) lines.push_back(cat(what, ": ", n.name, n.text.empty() ? "" : " (" + n.text + ")"));
}

}  // namespace

WeightImport::WeightImport(const std::vector<std::pair<std::string, std::string>>& sources,
                           const std::vector<NamedShape>& ours, const WeightsImportOptions& options)
    : options_(options) {
  std::map<std::string, std::string> made;
  for (const auto& [path, layout] : sources) {
    sources_.push_back(std::make_unique<Source>(path, layout));
    Source& s = *sources_.back();
    s.plan = plan_import(s.layout, s.theirs, ours, options.lora);
    for (const Recipe& r : s.plan.recipes) {
      const auto [other, first] = made.try_emplace(r.name, path);
      check<DataError>(first, other->second, " and ", path, " both give ", r.name);
    }
  }
}

WeightImport::~WeightImport() = default;

// Of parts that any source's layout covers, what no source gives.
std::vector<NameNote> WeightImport::missing() const {
  std::set<std::string> made;
  std::map<std::string, NameNote> notes;
  for (const auto& s : sources_) {
    for (const Recipe& r : s->plan.recipes) made.insert(r.name);
    for (const NameNote& n : s->plan.reshaped) made.insert(n.name);  // listed as such
    for (const NameNote& n : s->plan.missing) notes.emplace(n.name, n);
  }
  std::vector<NameNote> out;
  for (const auto& [name, note] : notes) {
    if (!made.contains(name)) out.push_back(note);
  }
  return out;
}

std::vector<std::string> WeightImport::report() const {
  std::vector<std::string> lines;
  for (const auto& s : sources_) {
    std::map<std::string, int64_t> later;
    for (const NameNote& n : s->plan.later) ++later[n.text];
    lines.push_back(cat(s->path, " (", s->layout.name, "): ", s->reader.files().size(), " files, ", s->theirs.size(),
                        " tensors, ", s->reader.data_bytes(), " bytes; ", s->plan.recipes.size(),
                        " parameters of ours, ", s->plan.unused.size(), " tensors not needed, ", s->plan.later.size(),
                        " of parts that do not exist yet"));
    for (const auto& [part, count] : later) lines.push_back(cat("part not built yet: ", part, ", ", count, " tensors"));
    list(lines, "unexpected", s->plan.unexpected);
    list(lines, "other shape", s->plan.reshaped);
  }
  list(lines, "missing", missing());
  return lines;
}

void WeightImport::require_fit() const {
  std::string message;
  std::vector<NameNote> unexpected, reshaped;
  for (const auto& s : sources_) {
    for (const NameNote& n : s->plan.unexpected) unexpected.push_back({n.name, n.name + " (" + n.text + ")"});
    reshaped.insert(reshaped.end(), s->plan.reshaped.begin(), s->plan.reshaped.end());
    for (const Recipe& r : s->plan.recipes) s->maker.natural_type(r);
    for (const size_t t : s->plan.counting) check_counting(s->tensors[t]);
  }
  sift(missing(), options_.allow_missing, "parameters without a source (--allow-missing)", message);
  sift(unexpected, options_.allow_unexpected, "tensors without a place (--allow-unexpected)", message);
  sift(reshaped, options_.allow_shape, "of another shape (--allow-shape)", message);
  check<ConfigError>(message.empty(), "these weights do not fit this model", message);
}

std::vector<StateTensor> WeightImport::tensors() const {
  std::vector<StateTensor> out;
  for (const auto& s : sources_) {
    for (const Recipe& r : s->plan.recipes) {
      out.push_back({r.name,
                     {},
                     r.shape,
                     0,
                     {},
                     std::make_shared<RecipeBytes>(s->maker, r, type_for(s->maker, r, options_.dtype))});
    }
  }
  return out;
}

int64_t WeightImport::bytes() const {
  int64_t sum = 0;
  for (const auto& s : sources_) {
    for (const Recipe& r : s->plan.recipes) sum += r.shape.numel() * width_of(type_for(s->maker, r, options_.dtype));
  }
  return sum;
}

int64_t WeightImport::overflows() const {
  int64_t sum = 0;
  for (const auto& s : sources_) sum += s->maker.overflows();
  return sum;
}

}  // namespace tpo
