#include "checkpoint/weights/export.h"

#include <algorithm>
#include <map>
#include <memory>

#include "checkpoint/manifest.h"
#include "checkpoint/safetensors/writer.h"
#include "checkpoint/shards.h"
#include "checkpoint/weights/maker.h"
#include "core/error.h"

namespace tpo {
namespace {

using checkpoint::TensorEntry;

bool is_weight_of_ours(const TensorEntry& t) { return !t.name().starts_with("optim."); }

class Exporter {
 public:
  Exporter(const std::string& checkpoint, const ExportOptions& options)
      : options_(options),
        layout_(layout_of(options.layout)),
        manifest_(read_checkpoint_manifest(checkpoint)),
        shards_(manifest_, checkpoint) {
    check_shard_files(manifest_, checkpoint);
    if (!options.base.empty()) base_ = std::make_unique<SafetensorsReader>(options.base);
  }

  void plan();
  ExportReport report() const;
  void write(const std::string& out);

 private:
  void add_checkpoint();
  bool equal(const std::string& a, const std::string& b) const;
  void settle_ties();
  SafeType type_of(const Recipe& recipe) const;
  std::vector<TensorToWrite> files() const;

  const ExportOptions& options_;
  Layout layout_;
  checkpoint::Manifest manifest_;
  Shards shards_;
  std::unique_ptr<SafetensorsReader> base_;  // null without
  std::vector<NamedShape> ours_;
  std::vector<WeightSource> sources_;  // ours, then what base gives
  ExportPlan plan_;
  Maker maker_{sources_};
};

void Exporter::add_checkpoint() {
  for (const TensorEntry& t : manifest_.tensors()) {
    if (!is_weight_of_ours(t)) continue;
    const DType dtype = dtype_of(t);
    check<DataError>(is_float(dtype), "tensor ", t.name(), " of the checkpoint is ", dtype, ", no weight");
    const SafeType type = dtype == DType::kBF16 ? SafeType::kBF16 : SafeType::kF32;
    ours_.push_back({t.name(), shape_of(t)});
    sources_.push_back({t.name(), type, shape_of(t),
                        [this, &t](int64_t first, std::span<std::byte> out) { shards_.read_run(t, first, out); }});
  }
}

void Exporter::plan() {
  add_checkpoint();
  std::vector<NamedShape> base;
  if (base_) {
    for (const auto& [name, entry] : base_->tensors()) {
      base.push_back({name, entry.tensor.shape});
      sources_.push_back(source_of(*base_, entry));
    }
  }
  plan_ = plan_export(layout_, ours_, options_.lora, base_ ? &base : nullptr);
  std::vector<NameNote> missing = plan_.missing;
  for (NameNote& n : missing) n.text = n.text.empty() ? n.name : n.name + " (" + n.text + ")";
  std::string message;
  sift(missing, options_.allow_missing,
       base_ ? "names of the base whose parameters the checkpoint lacks (--allow-missing leaves them out)"
             : "names of the layout that the checkpoint cannot give (--base FOLDER, --allow-missing)",
       message);
  if (!options_.lora.merge && !options_.drop_adapters)
    sift(plan_.adapters, {}, "adapters that the layout has no names for (--lora merge, --lora drop)", message);
  check<ConfigError>(message.empty(), "this checkpoint does not make a ", layout_.name, message);
  check<ConfigError>(plan_.recipes.size() > static_cast<size_t>(plan_.from_base),
                     "nothing of this checkpoint has a name in layout ", layout_.name);
  settle_ties();
}

// Whether the tensors of two names are made of the same values.
bool Exporter::equal(const std::string& a, const std::string& b) const {
  constexpr int64_t kChunk = 1 << 18;
  const auto find = [&](const std::string& name) {
    return std::find_if(plan_.recipes.begin(), plan_.recipes.end(), [&](const Recipe& r) { return r.name == name; });
  };
  const auto x = find(a), y = find(b);
  if (x == plan_.recipes.end() || y == plan_.recipes.end() || x->shape != y->shape) return false;
  Maker make_x(sources_), make_y(sources_);  // of their own: a maker remembers a recipe by its place
  std::vector<float> values_x, values_y;
  for (int64_t at = 0; at < x->shape.numel(); at += kChunk) {
    const auto n = static_cast<size_t>(std::min(kChunk, x->shape.numel() - at));
    values_x.resize(n), values_y.resize(n);
    const auto bytes_x = std::as_writable_bytes(std::span(values_x)),
               bytes_y = std::as_writable_bytes(std::span(values_y));
    make_x.fill(*x, SafeType::kF32, at, bytes_x), make_y.fill(*y, SafeType::kF32, at, bytes_y);
    if (!std::equal(bytes_x.begin(), bytes_x.end(), bytes_y.begin())) return false;
  }
  return true;
}

void Exporter::settle_ties() {
  std::erase_if(plan_.tied, [&](const NameNote& tie) {
    if (!equal(tie.name, tie.text)) return false;
    std::erase_if(plan_.recipes, [&](const Recipe& r) { return r.name == tie.name; });
    std::erase_if(plan_.added, [&](const NameNote& n) { return n.name == tie.name; });
    return true;
  });
}

SafeType Exporter::type_of(const Recipe& recipe) const {
  const SafeType stored = sources_[recipe.source].type;
  if (recipe.counting || !is_weight(stored)) return recipe.counting ? SafeType::kI64 : stored;
  if (options_.type) return *options_.type;
  if (base_) {
    const auto it = base_->tensors().find(recipe.name);
    if (it != base_->tensors().end() && is_weight(it->second.tensor.type)) return it->second.tensor.type;
  }
  return maker_.natural_type(recipe);
}

// In the files of base, where it has the name; a name that it lacks goes into its last file.
std::vector<TensorToWrite> Exporter::files() const {
  std::vector<TensorToWrite> out;
  for (const Recipe& r : plan_.recipes) out.push_back({r.name, type_of(r), r.shape, 0});
  if (!base_) {
    assign_shards(out, options_.shard_bytes);
    return out;
  }
  for (TensorToWrite& t : out) {
    const auto it = base_->tensors().find(t.name);
    t.shard = it != base_->tensors().end() ? it->second.file : base_->files().size() - 1;
    if (t.type == SafeType::kOpaque) t.spelled = it->second.tensor.spelled;
  }
  return out;
}

ExportReport Exporter::report() const {
  ExportReport r;
  r.tensors = static_cast<int64_t>(plan_.recipes.size());
  for (const TensorToWrite& t : files()) r.bytes += t.shape.numel() * width_of(t.type);
  r.from_base = plan_.from_base, r.beyond = plan_.beyond, r.left_out = plan_.left_out, r.unwritten = plan_.unwritten;
  r.added = plan_.added, r.untied = plan_.tied, r.unknown = plan_.unknown, r.zeroed = plan_.zeroed;
  r.unwritten.insert(r.unwritten.end(), plan_.missing.begin(), plan_.missing.end());
  for (const Recipe& recipe : plan_.recipes) r.merged += recipe.lora_a ? 1 : 0;
  return r;
}

void Exporter::write(const std::string& out) {
  for (const PieceRef& piece : in_file_order(manifest_, is_weight_of_ours)) shards_.check_piece(piece);
  const std::vector<TensorToWrite> tensors = files();
  write_safetensors(out, tensors, [&](size_t i, int64_t at, std::span<std::byte> to) {
    maker_.fill(plan_.recipes[i], tensors[i].type, at / width_of(tensors[i].type), to);
    check_overflows(options_.allow_overflow, maker_.overflows(), tensors[i].name, tensors[i].type);
  });
}

}  // namespace

ExportReport export_weights(const std::string& checkpoint, const std::string& out, const ExportOptions& options,
                            bool dry_run) {
  check_new_folder(out);
  Exporter exporter(checkpoint, options);
  exporter.plan();
  if (!dry_run) exporter.write(out);
  return exporter.report();
}

}  // namespace tpo
