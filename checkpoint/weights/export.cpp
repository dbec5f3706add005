#include "checkpoint/weights/export.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>

#include "checkpoint/manifest.h"
#include "checkpoint/safetensors/writer.h"
#include "checkpoint/shards.h"
#include "checkpoint/weights/maker.h"
#include "core/error.h"
#include "core/param.h"

namespace tpo {
namespace {

using checkpoint::TensorEntry;

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
  void add_base();
  void check_names();
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
  std::vector<NameNote> missing_;
  int64_t from_base_ = 0;
  Maker maker_{sources_};
};

void Exporter::add_checkpoint() {
  for (const TensorEntry& t : manifest_.tensors()) {
    if (t.name().starts_with("optim.")) continue;
    const DType dtype = dtype_of(t);
    check<DataError>(is_float(dtype), "tensor ", t.name(), " of the checkpoint is ", dtype, ", no weight");
    const SafeType type = dtype == DType::kBF16 ? SafeType::kBF16 : SafeType::kF32;
    ours_.push_back({t.name(), shape_of(t)});
    sources_.push_back({t.name(), type, shape_of(t),
                        [this, &t](int64_t first, std::span<std::byte> out) { shards_.read_run(t, first, out); }});
  }
}

// What base has beyond ours: copied where nothing here could give it, else missing. Shapes of common names are equal.
// Ids that some versions of transformers store and others compute are written if base has them.
void Exporter::add_base() {
  std::erase_if(plan_.recipes, [&](const Recipe& r) { return r.counting && base_->tensors().count(r.name) == 0; });
  std::map<std::string, const Recipe*> made;
  for (const Recipe& r : plan_.recipes) made[r.name] = &r;
  std::vector<Recipe> copies;
  for (const auto& [name, entry] : base_->tensors()) {
    const auto it = made.find(name);
    if (it != made.end()) {
      check<DataError>(it->second->shape == entry.tensor.shape, "tensor ", name, " is ", entry.tensor.shape, " in ",
                       options_.base, " and would be written as ", it->second->shape);
      continue;
    }
    const bool expected = std::any_of(layout_.rows.begin(), layout_.rows.end(), [&, &n = name](const MapRow& row) {
      return row.ours.empty() && (glob_match(row.theirs, n) || match_name(row.theirs, n));
    });
    if (!expected) missing_.push_back({name, ""});
    Recipe copy{.name = name, .shape = entry.tensor.shape, .pieces = {}, .lora_a = {}, .lora_b = {}};
    copy.pieces.push_back({sources_.size(), 0, 0, entry.tensor.shape.numel()});
    copies.push_back(std::move(copy));
    sources_.push_back(
        {name, entry.tensor.type, entry.tensor.shape, [this, e = &entry](int64_t first, std::span<std::byte> out) {
           base_->read(*e, first * width_of(e->tensor.type), out);
         }});
  }
  from_base_ = static_cast<int64_t>(copies.size());
  plan_.recipes.insert(plan_.recipes.end(), copies.begin(), copies.end());
}

void Exporter::check_names() {
  for (const NameNote& n : plan_.missing) {
    const bool copied = base_ && std::any_of(base_->tensors().begin(), base_->tensors().end(), [&](const auto& t) {
                          return glob_match(n.name, t.first) || match_name(n.name, t.first);
                        });
    if (!copied) missing_.push_back({n.name, n.text.empty() ? n.name : n.name + " (" + n.text + ")"});
  }
  std::string message;
  sift(missing_, options_.allow_missing,
       "names of the layout that the checkpoint cannot give (--base FOLDER, --allow-missing)", message);
  if (!options_.lora.merge && !options_.drop_adapters)
    sift(plan_.adapters, {}, "adapters that the layout has no names for (--lora merge, --lora drop)", message);
  check<ConfigError>(message.empty(), "this checkpoint does not make a ", layout_.name, message);
  check<ConfigError>(!plan_.recipes.empty(), "nothing of this checkpoint has a name in layout ", layout_.name);
}

void Exporter::plan() {
  add_checkpoint();
  plan_ = plan_export(layout_, ours_, options_.lora);
  if (base_) add_base();
  check_names();
}

SafeType Exporter::type_of(const Recipe& recipe) const {
  const bool weight = !recipe.counting && is_weight(sources_[recipe.pieces.front().source].type);
  if (!weight) return recipe.counting ? SafeType::kI64 : sources_[recipe.pieces.front().source].type;
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
  }
  return out;
}

ExportReport Exporter::report() const {
  ExportReport r;
  r.tensors = static_cast<int64_t>(plan_.recipes.size());
  for (const TensorToWrite& t : files()) r.bytes += t.shape.numel() * width_of(t.type);
  r.from_base = from_base_, r.overflows = maker_.overflows(), r.left_out = plan_.left_out;
  return r;
}

void Exporter::write(const std::string& out) {
  const std::vector<TensorToWrite> tensors = files();
  write_safetensors(out, tensors, [&](size_t i, int64_t at, std::span<std::byte> to) {
    maker_.fill(plan_.recipes[i], tensors[i].type, at / width_of(tensors[i].type), to);
  });
}

}  // namespace

ExportReport export_weights(const std::string& checkpoint, const std::string& out, const ExportOptions& options,
                            bool dry_run) {
  Exporter exporter(checkpoint, options);
  exporter.plan();
  if (!dry_run) exporter.write(out);
  return exporter.report();
}

}  // namespace tpo
