// Weights in and out: what is made, whole round trips, refusals.
#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>

#include "checkpoint/weights/export.h"
#include "checkpoint/weights/import.h"
#include "core/dtype.h"
#include "tests/checkpoint/weights_support.h"

namespace tpo {
namespace {

// Values of a small safetensors folder, and what an import makes of them.
class Imported : public testing::Test {
 protected:
  void put(const std::string& name, SafeType type, const Shape& shape, const std::vector<float>& values) {
    std::string bytes(values.size() * static_cast<size_t>(width_of(type)), '\0');
    convert(SafeType::kF32, std::as_bytes(std::span(values)), type, std::as_writable_bytes(std::span(bytes)));
    tensors_.push_back({name, type, shape, 0}), bytes_.push_back(bytes);
  }
  std::vector<float> ramp_of(int64_t n, float first = 1) {
    std::vector<float> v;
    for (int64_t i = 0; i < n; ++i) v.push_back(first + static_cast<float>(i));
    return v;
  }
  // All of one of ours, read in stretches of `step` elements.
  std::vector<float> make(const std::string& layout, const NamedShape& ours, const WeightsImportOptions& options = {},
                          int64_t step = 1 << 30, DType* dtype = nullptr) {
    const std::string folder = cat(dir_.path(), "/", count_++);
    write_safetensors(folder, tensors_, [&](size_t i, int64_t at, std::span<std::byte> to) {
      std::memcpy(to.data(), bytes_[i].data() + at, to.size());
    });
    WeightImport import({{folder, layout}}, {ours}, options);
    const std::vector<StateTensor> made = import.tensors();
    if (made.size() != 1) return {};
    const DType type = made[0].bytes->dtype();
    if (dtype != nullptr) *dtype = type;
    std::vector<float> out;
    for (int64_t at = 0; at < ours.shape.numel(); at += step) {
      const int64_t n = std::min(step, ours.shape.numel() - at);
      std::vector<float> values(static_cast<size_t>(n));
      std::vector<BF16> narrow(static_cast<size_t>(n));
      const auto wide = std::as_writable_bytes(std::span(values)), half = std::as_writable_bytes(std::span(narrow));
      made[0].bytes->read(at, type == DType::kF32 ? wide : half);
      for (size_t i = 0; i < values.size(); ++i)
        out.push_back(type == DType::kF32 ? values[i] : static_cast<float>(narrow[i]));
    }
    return out;
  }

  TempFolder dir_;
  std::vector<TensorToWrite> tensors_;
  std::vector<std::string> bytes_;
  int count_ = 0;
};

TEST_F(Imported, patches_turn_colours_last) {
  put("vision_encoder.encoder.patch_embed.proj.weight", SafeType::kF32, {2, 3, 1, 2, 2}, ramp_of(24, 0));
  std::vector<float> want;
  for (int o = 0; o < 2; ++o)
    for (int p = 0; p < 4; ++p)
      for (int c = 0; c < 3; ++c) want.push_back(static_cast<float>(o * 12 + c * 4 + p));
  for (const int64_t step : {100, 1, 5})
    EXPECT_EQ(make("umt", {"vision.patch_embed.weight", {2, 12}}, {}, step), want) << step;
}

TEST_F(Imported, grown_tables_end_in_the_mean_row) {
  put("model.embed_tokens.weight", SafeType::kF32, {3, 2}, {1, 10, 2, 20, 6, 60});
  std::vector<float> want{1, 10, 2, 20, 6, 60};
  for (int i = 0; i < 7; ++i) want.push_back(3), want.push_back(30);
  for (const int64_t step : {100, 1, 3, 7})
    EXPECT_EQ(make("mistral", {"language.embed_tokens.weight", {10, 2}}, {}, step), want) << step;
}

TEST_F(Imported, adapters_are_merged_in_fp32_and_rounded_once) {
  const std::string at = "lm.base_model.model.lm_head.";
  put(at + "base_layer.weight", SafeType::kBF16, {2, 3}, {1, 2, 3, 4, 5, 6});
  put(at + "lora_A.default.weight", SafeType::kF32, {2, 3}, {1, 0, 0.5f, 0, 1, 0.001f});
  put(at + "lora_B.default.weight", SafeType::kF32, {2, 2}, {0.25f, 1, 3, -1});
  WeightsImportOptions options;
  options.lora = {true, 2};
  DType dtype = DType::kF32;
  const NamedShape ours{"language.lm_head.weight", {2, 3}};
  const std::vector<float> exact{1.5f, 4, 3 + 2 * (0.125f + 0.001f), 10, 3, 6 + 2 * (1.5f - 0.001f)};
  std::vector<float> want;
  for (const float v : exact) want.push_back(static_cast<float>(BF16(v)));
  EXPECT_EQ(make("videochat_tpo", ours, options, 4, &dtype), want);
  EXPECT_EQ(dtype, DType::kBF16) << "the type of the weight";
  options.dtype = DType::kF32;
  EXPECT_EQ(make("videochat_tpo", ours, options), exact);
}

TEST_F(Imported, types) {
  const NamedShape ours{"language.norm.weight", {4}};
  DType dtype = DType::kF32;
  const std::vector<float> values{1, -2.5f, 0.0625f, 3};
  for (const SafeType type : {SafeType::kF32, SafeType::kF16, SafeType::kBF16}) {
    tensors_.clear(), bytes_.clear();
    put("model.norm.weight", type, {4}, values);
    EXPECT_EQ(make("mistral", ours, {}, 3, &dtype), values);
    EXPECT_EQ(dtype, type == SafeType::kBF16 ? DType::kBF16 : DType::kF32);
  }
  tensors_ = {{"model.norm.weight", SafeType::kI32, {4}, 0}}, bytes_ = {std::string(16, 'x')};
  EXPECT_NE(message_of<DataError>([&] { make("mistral", ours); }).find("model.norm.weight has dtype I32 (4)"),
            std::string::npos);
  tensors_ = {{"model.norm.weight", SafeType::kOpaque, {4}, 0, R"("dtype":"F4","shape":[8])"}};
  bytes_ = {std::string(4, 'x')};
  EXPECT_NE(message_of<DataError>([&] { make("mistral", ours); }).find(R"("dtype":"F4","shape":[8])"),
            std::string::npos);
}

TEST_F(Imported, a_value_beyond_the_type_is_an_error_unless_allowed) {
  const NamedShape ours{"language.norm.weight", {2}};
  put("model.norm.weight", SafeType::kF32, {2}, {1, 3.4e38f});
  WeightsImportOptions options;
  options.dtype = DType::kBF16;
  EXPECT_NE(
      message_of<ConfigError>([&] { make("mistral", ours, options); }).find("language.norm.weight is beyond BF16"),
      std::string::npos);
  options.allow_overflow = true;
  EXPECT_TRUE(std::isinf(make("mistral", ours, options).at(1)));
}

// One feed-forward of BERT is that of texts and that of queries; what it does not have keeps the run's values.
TEST_F(Imported, bert_gives_its_feed_forward_twice) {
  const std::string layer = "bert.encoder.layer.2.";
  put(layer + "intermediate.dense.weight", SafeType::kF32, {2, 2}, {1, 2, 3, 4});
  put(layer + "output.dense.bias", SafeType::kF32, {2}, {5, 6});
  put(layer + "output.LayerNorm.gamma", SafeType::kF32, {2}, {7, 8});
  put(layer + "output.LayerNorm.beta", SafeType::kF32, {2}, {9, 10});
  const struct {
    const char* ours;
    Shape shape;
    std::vector<float> want;
  } cases[] = {{"_mlp.fc1.weight", {2, 2}, {1, 2, 3, 4}},
               {"_mlp.fc2.bias", {2}, {5, 6}},
               {"_norm.weight", {2}, {7, 8}},
               {"_norm.bias", {2}, {9, 10}}};
  for (const auto& c : cases)
    for (const char* rows : {"text", "query"})
      EXPECT_EQ(make("bert", {cat("connector.layers.2.", rows, c.ours), c.shape}), c.want) << rows << c.ours;
  const Names cross{{"connector.layers.2.cross.q.weight", {2, 2}}};
  EXPECT_EQ(plan_import(layout_of("bert"), Names{}, cross, {}).outside, 1) << "covered by no row";
}

TEST_F(Imported, positions_must_count) {
  const Names ours{{"connector.position_embeddings.weight", {4, 2}}};
  const std::vector<std::pair<std::vector<int64_t>, const char*>> cases{{{0, 1, 2, 3}, ""},
                                                                        {{0, 1, 3, 2}, "element 2 is 3"}};
  for (const auto& [values, says] : cases) {
    const std::string folder = cat(dir_.path(), "/", count_++);
    write_safetensors(folder, {{"bert.embeddings.position_ids", SafeType::kI64, {1, 4}, 0}},
                      [&, &v = values](size_t, int64_t at, std::span<std::byte> to) {
                        std::memcpy(to.data(), reinterpret_cast<const char*>(v.data()) + at, to.size());
                      });
    WeightsImportOptions options;
    options.allow_missing = {"*"};
    const WeightImport import({{folder, "bert"}}, ours, options);
    if (*says == '\0') {
      import.require_fit();
    } else {
      EXPECT_NE(message_of<DataError>([&] { import.require_fit(); }).find(says), std::string::npos);
    }
  }
}

// What an export with base x must have written: x, but for token types, which our model never adds.
std::string expected_file(const std::string& x, const std::string& file) {
  std::string bytes = slurp(x + "/" + file);
  SafetensorsReader reader(x);
  for (const auto& [name, entry] : reader.tensors()) {
    if (name.find("token_type") == std::string::npos) continue;
    std::string value(static_cast<size_t>(entry.tensor.bytes), '\0');
    reader.read(entry, 0, std::as_writable_bytes(std::span(value)));
    if (const size_t at = bytes.find(value); at != std::string::npos)
      bytes.replace(at, value.size(), value.size(), '\0');
  }
  return bytes;
}

// All layouts, all names, random bits: export(import(x)) is x, whatever the ranks, the file division and the base.
TEST(Weights, round_trips_keep_every_bit) {
  for (const std::string& name : layout_names()) {
    SCOPED_TRACE(name);
    const Example e = example_of(layout_of(name));
    for (const SafeType type : {SafeType::kBF16, SafeType::kF32, SafeType::kF16}) {
      const TempFolder dir;
      const std::string x = dir.path() + "/x";
      write_random(x, e.theirs, type, type == SafeType::kBF16 ? 700 : 1 << 30);
      run_ranks(type == SafeType::kBF16 ? 3 : 1, [&](ProcessGroup& world) {
        WeightImport import({{x, name}}, e.ours, {});
        import.require_fit();
        save(dir.path() + "/c", 0, {import.tensors(), {}, "", ""}, world);
      });
      ExportOptions options;
      options.layout = name, options.base = x;
      if (type == SafeType::kF16) options.type = SafeType::kF16;
      const ExportReport report = export_weights(latest(dir.path() + "/c"), dir.path() + "/y", options);
      EXPECT_EQ(report.zeroed.size(), name == "bert" ? 1u : 0u);
      const SafetensorsReader a(x);
      for (const std::string& file : a.files()) {
        if (type == SafeType::kF16) continue;  // NaNs
        EXPECT_EQ(expected_file(x, file), slurp(dir.path() + "/y/" + file)) << file;
      }
      options.base.clear(), options.allow_missing = {"*"};
      export_weights(latest(dir.path() + "/c"), dir.path() + "/z", options);
      SafetensorsReader z(dir.path() + "/z");
      for (const auto& [tensor, entry] : z.tensors()) {
        std::string bytes(static_cast<size_t>(entry.tensor.bytes), '\0');
        z.read(entry, 0, std::as_writable_bytes(std::span(bytes)));
        std::string want = random_bytes(tensor, entry.tensor.type, entry.tensor.shape);
        if (tensor.find("token_type") != std::string::npos) want.assign(want.size(), '\0');  // nothing adds them
        if (type == SafeType::kF16 && entry.tensor.type == type) {  // a NaN may become another NaN
          for (size_t i = 0; i < want.size(); i += 2) {
            uint16_t v = 0;
            std::memcpy(&v, want.data() + i, 2);
            if (std::isnan(f32_of_f16(v))) std::memcpy(want.data() + i, bytes.data() + i, 2);
          }
        }
        ASSERT_EQ(bytes, want) << tensor;
      }
    }
  }
}

std::string replaced(std::string name, const std::string& from, const std::string& to) {
  const size_t at = name.find(from);
  return at == std::string::npos ? name : name.replace(at, from.size(), to);
}

// A base in an older spelling, or one of another version, is written as it was.
TEST(Weights, round_trips_keep_the_spelling_of_the_base) {
  const struct {
    const char *layout, *from, *to, *from2, *to2;
  } cases[] = {{"bert", "bert.", "", "", ""},
               {"bert", "LayerNorm.weight", "LayerNorm.gamma", "LayerNorm.bias", "LayerNorm.beta"},
               {"videochat2_mistral", ".base_layer", "", "", ""}};
  for (const auto& c : cases) {
    SCOPED_TRACE(cat(c.layout, " ", c.from));
    Example e = example_of(layout_of(c.layout));
    for (NamedShape& t : e.theirs) {
      t.name = replaced(t.name, c.from, c.to);
      if (*c.from2 != '\0') t.name = replaced(t.name, c.from2, c.to2);
    }
    const TempFolder dir;
    const std::string x = dir.path() + "/x", y = dir.path() + "/y";
    write_random(x, e.theirs, SafeType::kBF16, 700);
    const auto single = make_single();
    const WeightImport import({{x, c.layout}}, e.ours, {});
    import.require_fit();
    save(dir.path() + "/c", 0, {import.tensors(), {}, "", ""}, *single);
    ExportOptions options;
    options.layout = c.layout, options.base = x;
    export_weights(latest(dir.path() + "/c"), y, options);
    const SafetensorsReader base(x);
    for (const std::string& file : base.files()) EXPECT_EQ(expected_file(x, file), slurp(y + "/" + file));
  }
}

// Adapters that went into their weights come back as terms of nothing: never beside weights that have them.
TEST(Weights, merged_adapters_go_back_to_a_base_as_zeros) {
  const TempFolder dir;
  const std::string x = dir.path() + "/x", y = dir.path() + "/y";
  const std::string at = "mistral_model.base_model.model.lm_head.", a = at + "lora_A.default.weight",
                    b = at + "lora_B.default.weight", w = at + "base_layer.weight";
  write_random(x, {{w, {20, 4}}, {a, {2, 4}}, {b, {20, 2}}}, SafeType::kBF16, 1 << 30);
  WeightsImportOptions in;
  in.lora = {true, 2};
  const WeightImport import({{x, "videochat2_mistral"}}, {{"language.lm_head.weight", {27, 4}}}, in);
  const auto single = make_single();
  save(dir.path() + "/c", 0, {import.tensors(), {}, "", ""}, *single);
  ExportOptions options;
  options.layout = "videochat2_mistral", options.base = x;
  const ExportReport report = export_weights(latest(dir.path() + "/c"), y, options);
  ASSERT_EQ(report.zeroed.size(), 1u);
  EXPECT_EQ(report.zeroed[0].name + report.zeroed[0].text, b);
  SafetensorsReader before(x), after(y);
  const auto bytes = [](SafetensorsReader& r, const std::string& name) {
    std::string out(static_cast<size_t>(r.tensors().at(name).tensor.bytes), 'x');
    r.read(r.tensors().at(name), 0, std::as_writable_bytes(std::span(out)));
    return out;
  };
  EXPECT_EQ(bytes(after, a), bytes(before, a));
  EXPECT_EQ(bytes(after, b), std::string(80, '\0'));
  EXPECT_NE(bytes(after, w), bytes(before, w));
}

// A tied head comes in as a copy of the table: untrained it stays away again, trained it is written and told.
TEST(Weights, a_tied_head_goes_back_only_if_it_was_trained) {
  const TempFolder dir;
  const std::string x = dir.path() + "/x", head = "lm_head.weight", table = "model.embed_tokens.weight";
  write_random(x, {{table, {300000, 1}}, {"model.norm.weight", {1}}}, SafeType::kBF16, 1 << 30);
  const auto single = make_single();
  TrainState state;
  for (const char* name : {"language.embed_tokens.weight", "language.lm_head.weight"})
    state.tensors.push_back({name, ramp({300000, 1}, 1), {300000, 1}, 0});
  state.tensors.push_back({"language.norm.weight", ramp({1}, 1), {1}, 0});
  ExportOptions options;
  options.layout = "qwen2", options.base = x;
  for (const bool trained : {false, true}) {
    SCOPED_TRACE(trained);
    if (trained) state.tensors[1].value.data<float>()[299999] += 1;  // not in the first stretch that is compared
    const std::string c = save(dir.path() + "/c", trained, state, *single), y = cat(dir.path(), "/y", trained);
    for (const bool dry : {true, false}) {
      const ExportReport report = export_weights(c, y, options, dry);
      EXPECT_EQ(report.tensors, trained ? 3 : 2);
      ASSERT_EQ(report.added.size(), trained ? 1u : 0u);
      ASSERT_EQ(report.untied.size(), trained ? 1u : 0u);
      if (!trained) continue;
      EXPECT_EQ(report.added[0].name, head);
      EXPECT_EQ(report.untied[0].name + " " + report.untied[0].text, head + " " + table);
    }
    EXPECT_EQ(SafetensorsReader(y).tensors().contains(head), trained);
  }
}

TEST(Weights, bf16_fills_fp32_in_a_run) {
  const TempFolder dir;
  const std::string x = dir.path() + "/x";
  write_random(x, {{"model.norm.weight", {3001}}}, SafeType::kBF16, 1 << 30);
  const auto single = make_single();
  WeightImport import({{x, "mistral"}}, {{"language.norm.weight", {3001}}}, {});
  save(dir.path() + "/c", 0, {import.tensors(), {}, "", ""}, *single);
  TrainState state{{{"language.norm.weight", Tensor::zeros({3001}), {3001}, 0}}, {}, "", ""};
  load_one(latest(dir.path() + "/c"), state);
  const std::string bytes = random_bytes("model.norm.weight", SafeType::kBF16, {3001});
  for (int64_t i = 0; i < 3001; ++i) {
    uint32_t have = 0;
    uint16_t want = 0;
    std::memcpy(&have, state.tensors[0].value.data<float>() + i, 4), std::memcpy(&want, bytes.data() + 2 * i, 2);
    ASSERT_EQ(have, static_cast<uint32_t>(want) << 16);
  }
  TrainState ids{{{"language.norm.weight", Tensor::zeros({3001}, DType::kI32), {3001}, 0}}, {}, "", ""};
  EXPECT_NE(message_of<ConfigError>([&] { load_one(latest(dir.path() + "/c"), ids); }).find("another shape"),
            std::string::npos);
}

TEST(Weights, what_does_not_fit_is_refused_unless_allowed) {
  const TempFolder dir;
  const std::string x = dir.path() + "/x";
  write_random(x, {{"model.norm.weight", {4}}, {"model.layers.0.mlp.up_proj.weight", {4, 2}}, {"extra", {1}}},
               SafeType::kBF16, 1 << 30);
  const Names ours{{"language.norm.weight", {5}}, {"language.lm_head.weight", {9, 2}}, {"heads.x", {1}}};
  WeightsImportOptions options;
  const auto refused = [&] {
    return message_of<ConfigError>([&] { WeightImport({{x, "mistral"}}, ours, options).require_fit(); });
  };
  EXPECT_EQ(refused(),
            "these weights do not fit this model; 1 parameters without a source (--allow-missing): "
            "language.lm_head.weight; 2 tensors without a place (--allow-unexpected): extra (no row of the layout), "
            "model.layers.0.mlp.up_proj.weight (this model has no language.layers.0.mlp.up.weight); 1 of another shape "
            "(--allow-shape): language.norm.weight (5) here, model.norm.weight (4) there");
  options.allow_missing = {"language.lm_head.*"}, options.allow_unexpected = {"extra", "model.layers.*"};
  EXPECT_EQ(refused().find("language.lm_head"), std::string::npos);
  options.allow_shape = {"language.norm.weight"};
  WeightImport({{x, "mistral"}}, ours, options).require_fit();
  EXPECT_EQ(WeightImport({{x, "mistral"}}, ours, options).report().size(), 4u);
  EXPECT_NE(message_of<DataError>([&] {
              WeightImport({{x, "mistral"}, {x, "qwen2"}}, {{"language.norm.weight", {4}}}, {});
            }).find("both give language.norm.weight"),
            std::string::npos);
}

TEST(Weights, an_export_says_what_it_lacks) {
  const TempFolder dir;
  const auto single = make_single();
  const auto tensor = [](const std::string& name, const Shape& s) { return StateTensor{name, ramp(s, 1), s, 0}; };
  TrainState state{
      {tensor("language.norm.weight", {4}), tensor("language.layers.0.mlp.up.weight", {2, 4}),
       tensor("language.layers.0.mlp.up.lora_a", {1, 4}), tensor("language.layers.0.mlp.up.lora_b", {2, 1}),
       tensor("heads.x", {3}), tensor("optim.m.language.norm.weight", {4})},
      {},
      "",
      ""};
  const std::string c = save(dir.path() + "/c", 1, state, *single), y = dir.path() + "/y";
  ExportOptions options;
  options.layout = "mistral";
  std::string said = message_of<ConfigError>([&] { export_weights(c, y, options); });
  EXPECT_NE(said.find("model.embed_tokens.weight"), std::string::npos) << said;
  EXPECT_NE(said.find("2 adapters that the layout has no names for (--lora merge, --lora drop)"), std::string::npos);
  options.allow_missing = {"*"}, options.lora = {true, 2};
  const ExportReport report = export_weights(c, y, options);
  EXPECT_EQ(report.tensors, 2);
  for (const char* name : {"model.embed_tokens.weight", "lm_head.weight"})
    EXPECT_EQ(
        std::count_if(report.unwritten.begin(), report.unwritten.end(), [&](const auto& n) { return n.name == name; }),
        1);
  EXPECT_NE(message_of<ConfigError>([&] { export_weights(c, y, options, true); }).find("exists already"),
            std::string::npos);
  EXPECT_NE(message_of<ConfigError>([&] { export_weights(c, c, ExportOptions()); }).find("exists already"),
            std::string::npos)
      << "before all else";
  ASSERT_EQ(report.left_out.size(), 1u);
  EXPECT_EQ(report.left_out[0].name, "heads.x");
  SafetensorsReader reader(y);
  std::vector<float> up(8);
  reader.read(reader.tensors().at("model.layers.0.mlp.up_proj.weight"), 0, std::as_writable_bytes(std::span(up)));
  const float *w = state.tensors[1].value.data<float>(), *a = state.tensors[2].value.data<float>(),
              *b = state.tensors[3].value.data<float>();
  for (size_t i = 0; i < 8; ++i) EXPECT_EQ(up[i], w[i] + 2 * (b[i / 4] * a[i % 4]));
  options.lora = {}, options.drop_adapters = true, options.type = SafeType::kF16;
  EXPECT_EQ(export_weights(c, dir.path() + "/z", options).bytes, 24);
  state.tensors[0].value.data<float>()[2] = 1e6f;
  const std::string wide = save(dir.path() + "/c", 2, state, *single), w_out = dir.path() + "/w";
  EXPECT_NE(message_of<ConfigError>([&] { export_weights(wide, w_out, options); }).find("beyond F16"),
            std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(w_out));
  options.allow_overflow = true;
  EXPECT_EQ(export_weights(wide, w_out, options).tensors, 2);
  options.layout = "siglip", options.allow_missing = {"*"};
  EXPECT_NE(message_of<ConfigError>([&] { export_weights(c, dir.path() + "/v", options); }).find("nothing of this"),
            std::string::npos);
}

// A flipped byte is found before anything is written.
TEST(Weights, a_damaged_checkpoint_is_not_exported) {
  const TempFolder dir;
  const auto single = make_single();
  const TrainState state{{{"language.norm.weight", ramp({4}, 1), {4}, 0}}, {}, "", ""};
  const std::string c = save(dir.path() + "/c", 1, state, *single), y = dir.path() + "/y";
  const std::string shard = c + "/shard_00000.h5";
  std::string bytes = slurp(shard);
  const std::string value(reinterpret_cast<const char*>(state.tensors[0].value.data<float>()), 16);
  ASSERT_NE(bytes.find(value), std::string::npos);
  bytes[bytes.find(value) + 5] ^= 1;
  std::ofstream(shard, std::ios::binary) << bytes;
  ExportOptions options;
  options.layout = "mistral", options.allow_missing = {"*"};
  EXPECT_NE(message_of<DataError>([&] { export_weights(c, y, options); }).find("is damaged"), std::string::npos);
  EXPECT_FALSE(std::filesystem::exists(y));
}

// Merging goes through each file once: adapters lie in a file of their own, or between the weights, and are larger
// than what is read in blocks.
TEST(Weights, merging_reads_each_file_once) {
  for (const bool apart : {false, true}) {
    const TempFolder dir;
    const std::string x = dir.path() + "/x";
    std::vector<TensorToWrite> tensors;
    Names ours;
    for (const char* name : {"gate", "up"}) {
      const std::string at = cat("mistral_model.base_model.model.model.layers.0.mlp.", name, "_proj.");
      tensors.push_back({at + "base_layer.weight", SafeType::kBF16, {20000, 80}, 0});
      tensors.push_back({at + "lora_A.default.weight", SafeType::kBF16, {32, 80}, apart ? 1u : 0u});
      tensors.push_back({at + "lora_B.default.weight", SafeType::kBF16, {20000, 32}, apart ? 1u : 0u});
      ours.push_back({cat("language.layers.0.mlp.", name, ".weight"), {20000, 80}});
    }
    int64_t bytes = 0;
    for (const TensorToWrite& t : tensors) bytes += t.shape.numel() * 2;
    write_safetensors(x, tensors,
                      [](size_t, int64_t, std::span<std::byte> to) { std::fill(to.begin(), to.end(), std::byte{1}); });
    const auto single = make_single();
    WeightsImportOptions options;
    options.lora = {true, 2};
    const WeightImport import({{x, "videochat2_mistral"}}, ours, options);
    EXPECT_EQ(import.report().at(1), "adapters merged into their weights: 2");
    save(dir.path() + "/c", 0, {import.tensors(), {}, "", ""}, *single);
    EXPECT_GE(import.bytes_read(), bytes);
    // A jump between tensors of one file costs the rest of a block; blocks are 8 MiB and there are six tensors.
    EXPECT_LE(import.bytes_read(), bytes + 6 * (8 << 20));
  }
}

}  // namespace
}  // namespace tpo
