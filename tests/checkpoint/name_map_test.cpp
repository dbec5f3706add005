#include "checkpoint/weights/name_map.h"

#include <algorithm>
#include <map>
#include <set>

#include "checkpoint/weights/plan.h"
#include "tests/checkpoint/weights_support.h"

namespace tpo {
namespace {

std::string text_of(const std::vector<NameNote>& notes) {
  std::string out;
  for (const NameNote& n : notes) out += (out.empty() ? "" : " ") + n.name;
  return out;
}

TEST(NameMap, patterns) {
  EXPECT_EQ(*match_name("a.#.b.#", "a.0.b.12"), (std::vector<std::string>{"0", "12"}));
  for (const char* other : {"a.b.b.1", "a.0.b.", "a.00.b.1", "a.0.b.1x", "xa.0.b.1", "a.0.c.1", ""})
    EXPECT_FALSE(match_name("a.#.b.#", other)) << other;
  EXPECT_EQ(fill_name("x#y#", {"7", "0"}), "x7y0");
  std::vector<MapRow> rows;
  append_rows(rows, "t.", "o.", {same("{a,b}.#.{c,d}", "{x,y}.#.{z,w}"), unused("u.*", "why")});
  ASSERT_EQ(rows.size(), 5u);
  EXPECT_EQ(rows[2].theirs, "t.b.#.c");
  EXPECT_EQ(rows[2].ours, "o.y.#.z");
  EXPECT_EQ(rows[4].theirs, "t.u.*");
  EXPECT_THROW(append_rows(rows, "", "", {same("a.#", "b")}), std::logic_error);
  EXPECT_THROW(append_rows(rows, "", "", {same("{a,b,c}", "{d,e}")}), std::logic_error);
}

// All tables: no name stands for two parameters, none is left over, and what import makes, export takes back.
TEST(NameMap, every_layout_is_a_bijection) {
  for (const std::string& name : layout_names()) {
    SCOPED_TRACE(name);
    const Layout layout = layout_of(name);
    const Example e = example_of(layout);
    std::set<std::string> distinct;
    for (const NamedShape& t : e.theirs) EXPECT_TRUE(distinct.insert(t.name).second) << t.name;
    const ImportPlan in = plan_import(layout, e.theirs, e.ours, {});
    EXPECT_EQ(text_of(in.missing) + text_of(in.unexpected) + text_of(in.reshaped), "");
    EXPECT_EQ(in.recipes.size() + in.later.size() + in.unused.size() >= e.theirs.size(), true);
    const ExportPlan out = plan_export(layout, e.ours, {});
    EXPECT_EQ(text_of(out.left_out) + text_of(out.adapters), "");
    std::map<std::string, Shape> made;
    for (const Recipe& r : out.recipes) made[r.name] = r.shape;
    for (const NamedShape& t : e.theirs) {
      if (t.name.find('*') != std::string::npos || t.shape == Shape{3}) continue;
      ASSERT_TRUE(made.contains(t.name)) << t.name;
      EXPECT_EQ(made.at(t.name), t.shape) << t.name;
    }
    for (const NameNote& n : out.missing) EXPECT_NE(n.text, "") << n.name << " has a tensor";
  }
  EXPECT_NE(message_of<ConfigError>([] { layout_of("mixtral"); }).find("videochat2_mistral"), std::string::npos);
}

const Layout& toy() {
  static const Layout layout = [] {
    Layout l{"toy", "", {}};
    append_rows(l.rows, "", "",
                {grown(2, "table", "table.weight"), same("w.#", "w.#.weight"), same("a.#", "w.#.lora_a"),
                 same("b.#", "w.#.lora_b"), import_only(same("old.#", "w.#.weight")), later("sam.*", "mask head")});
    return l;
  }();
  return layout;
}
const Names kToyOurs{{"table.weight", {7, 4}}, {"w.0.weight", {3, 4}}, {"w.1.weight", {3, 4}}, {"other", {1}}};

TEST(NameMap, what_does_not_fit_is_listed) {
  const Names theirs{{"table", {5, 4}}, {"w.1", {4, 3}}, {"w.2", {3, 4}}, {"sam.x.y", {9}}, {"noise", {2}}};
  const ImportPlan plan = plan_import(toy(), theirs, kToyOurs, {});
  EXPECT_EQ(text_of(plan.missing), "w.0.weight");
  EXPECT_EQ(text_of(plan.unexpected), "w.2 noise");
  EXPECT_EQ(plan.unexpected[0].text, "this model has no w.2.weight");
  EXPECT_EQ(plan.reshaped.at(0).text, "w.1.weight (3, 4) here, w.1 (4, 3) there");
  EXPECT_EQ(plan.later.at(0).text, "mask head");
  EXPECT_EQ(plan.outside, 1);
  ASSERT_EQ(plan.recipes.size(), 1u);
  EXPECT_EQ(plan.recipes[0].mean_rows, 2);
  const Names twice{{"w.0", {3, 4}}, {"old.0", {3, 4}}};
  EXPECT_EQ(message_of<DataError>([&] { plan_import(toy(), twice, kToyOurs, {}); }),
            "w.0 and old.0 both stand for w.0.weight");
  const Names short_by_one{{"table", {6, 4}}};
  EXPECT_EQ(plan_import(toy(), short_by_one, kToyOurs, {}).reshaped.size(), 1u);
  const Names whole{{"table", {7, 4}}};
  EXPECT_EQ(plan_import(toy(), whole, kToyOurs, {}).recipes.at(0).mean_rows, 0);
}

TEST(NameMap, adapters_stay_beside_or_go_into_the_weight) {
  const Names theirs{{"w.0", {3, 4}}, {"a.0", {2, 4}}, {"b.0", {3, 2}}};
  Names ours = kToyOurs;
  EXPECT_EQ(text_of(plan_import(toy(), theirs, ours, {}).unexpected), "a.0 b.0");
  const ImportPlan merged = plan_import(toy(), theirs, ours, {true, 1.5f});
  EXPECT_EQ(text_of(merged.unexpected), "");
  ASSERT_EQ(merged.recipes.size(), 1u);
  EXPECT_EQ(merged.recipes[0].lora_scale, 1.5f);
  EXPECT_EQ(*merged.recipes[0].lora_b, 2u);
  ours.push_back({"w.0.lora_a", {2, 4}}), ours.push_back({"w.0.lora_b", {3, 2}});
  EXPECT_EQ(plan_import(toy(), theirs, ours, {}).recipes.size(), 3u);
  const Names half{{"w.0", {3, 4}}, {"a.0", {2, 4}}}, wrong{{"w.0", {3, 4}}, {"a.0", {2, 4}}, {"b.0", {4, 2}}};
  EXPECT_NE(message_of<DataError>([&] {
              plan_import(toy(), half, kToyOurs, {true, 1});
            }).find("only one"),
            std::string::npos);
  EXPECT_NE(message_of<DataError>([&] {
              plan_import(toy(), wrong, kToyOurs, {true, 1});
            }).find("has factors"),
            std::string::npos);
  Layout plain{"plain", "", {}};
  append_rows(plain.rows, "", "", {same("w.#", "w.#.weight")});
  EXPECT_EQ(text_of(plan_export(plain, ours, {}).adapters), "w.0.lora_a w.0.lora_b");
  EXPECT_TRUE(plan_export(plain, ours, {true, 2}).recipes.at(0).lora_a.has_value());
  EXPECT_FALSE(plan_export(plain, ours, {}).recipes.at(0).lora_a.has_value());
}

// A base says how names are spelled and gives what no parameter stands for; a stale copy of one that has a counterpart
// would stand beside weights of another state.
TEST(NameMap, a_base_gives_only_what_no_parameter_stands_for) {
  Layout layout = toy();
  append_rows(layout.rows, "", "", {tower(1, same("block.#", "vision.blocks.#.weight"))});
  const Names ours{
      {"table.weight", {7, 4}}, {"w.0.weight", {3, 4}}, {"w.1.weight", {3, 4}}, {"vision.blocks.0.weight", {2}}};
  const Names base{{"a.0", {2, 4}},   {"b.0", {3, 2}}, {"block.0", {2}},  {"block.1", {2}}, {"noise", {2}},
                   {"old.0", {3, 4}}, {"sam.x", {9}},  {"table", {5, 4}}, {"w.1", {3, 4}},  {"w.2", {3, 4}}};
  const ExportPlan plan = plan_export(layout, ours, {}, &base);
  EXPECT_EQ(text_of(plan.missing), "w.2");
  EXPECT_EQ(text_of(plan.unknown), "noise");
  EXPECT_EQ(text_of(plan.zeroed), "b.0");
  EXPECT_EQ(plan.from_base, 4);
  EXPECT_EQ(plan.beyond, 1);
  std::map<std::string, const Recipe*> made;
  for (const Recipe& r : plan.recipes) made[r.name] = &r;
  ASSERT_EQ(made.size(), plan.recipes.size());
  const std::vector<std::pair<std::string, size_t>> want{{"a.0", 4},     {"b.0", 5},   {"block.0", 3},
                                                         {"block.1", 7}, {"noise", 8}, {"old.0", 1},
                                                         {"sam.x", 10},  {"table", 0}, {"w.1", 2}};
  ASSERT_EQ(made.size(), want.size());
  for (const auto& [name, source] : want) {
    ASSERT_TRUE(made.contains(name)) << name;
    EXPECT_EQ(made[name]->source, source) << name;
    EXPECT_EQ(made[name]->zeros, name == "b.0") << name;
  }
  const Names wrong{{"w.1", {4, 3}}};
  EXPECT_NE(message_of<DataError>([&] { plan_export(layout, ours, {}, &wrong); }).find("tensor w.1 is (4, 3)"),
            std::string::npos);
  const ImportPlan in = plan_import(layout, base, ours, {});
  EXPECT_EQ(text_of(in.unexpected), "a.0 b.0 noise w.2") << "block.1 is not needed";
}

// A tower without its last layer is as it is meant to be; one that is cut further is not imported without a word.
TEST(NameMap, a_tower_loses_no_more_layers_than_its_layout_names) {
  const std::string at = "vision_model.encoder.layers.", norm = ".layer_norm1.weight", norm2 = ".layer_norm2.weight";
  const Layout l = layout_of("siglip");
  for (const int depth : {1, 25, 26, 27}) {
    SCOPED_TRACE(depth);
    Names theirs, ours;
    for (int i = 0; i < 27; ++i) theirs.push_back({cat(at, i, norm), {2}}), theirs.push_back({cat(at, i, norm2), {2}});
    for (int i = 0; i < depth; ++i)
      for (const int n : {1, 2}) ours.push_back({cat("vision.blocks.", i, ".norm", n, ".weight"), {2}});
    const ImportPlan plan = plan_import(l, theirs, ours, {});
    EXPECT_EQ(plan.beyond, 27 - depth);
    EXPECT_EQ(plan.recipes.size(), ours.size());
    EXPECT_EQ(plan.unexpected.size(), depth < 26 ? static_cast<size_t>(2 * (27 - depth)) : 0u);
    for (const NameNote& n : plan.unexpected) EXPECT_EQ(n.text, "beyond the depth of this model's tower");
  }
}

// A base made by another training may have the added rows: it gets ours back, in tables as in low-rank terms.
TEST(NameMap, a_base_with_the_added_rows_keeps_them) {
  const std::string head = "mistral_model.base_model.model.lm_head.";
  const Names ours{
      {"language.lm_head.weight", {27, 4}}, {"language.lm_head.lora_a", {2, 4}}, {"language.lm_head.lora_b", {27, 2}}};
  for (const int64_t rows : {20, 27, 26}) {
    const Names base{{head + "base_layer.weight", {rows, 4}},
                     {head + "lora_A.default.weight", {2, 4}},
                     {head + "lora_B.default.weight", {rows, 2}}};
    const auto plan = [&] { return plan_export(layout_of("videochat2_mistral"), ours, {}, &base); };
    if (rows == 26) {
      EXPECT_THROW(plan(), DataError);
      continue;
    }
    for (const Recipe& r : plan().recipes) {
      const Shape want[] = {{rows, 4}, {2, 4}, {rows, 2}};
      EXPECT_EQ(r.shape, want[r.source]) << r.name;
    }
    EXPECT_EQ(plan().recipes.size(), 3u);
    Names rank = ours;
    rank[1].shape = {3, 4}, rank[2].shape = {27, 3};
    EXPECT_NE(message_of<DataError>([&] {
                plan_export(layout_of("videochat2_mistral"), rank, {}, &base);
              }).find("of another rank go out without a base"),
              std::string::npos);
    const ImportPlan in = plan_import(layout_of("videochat2_mistral"), base, rank, {});
    ASSERT_EQ(in.reshaped.size(), 2u);
    for (const NameNote& n : in.reshaped) EXPECT_NE(n.text.find("set model.language.lora_rank"), std::string::npos);
    EXPECT_EQ(plan_import(layout_of("videochat2_mistral"), base, ours, {}).recipes.size(), 3u);
  }
}

TEST(NameMap, adapters_and_weights_may_be_in_different_files) {
  const Names weights{{"w.0", {3, 4}}, {"table", {5, 4}}}, adapters{{"a.0", {2, 4}}, {"b.0", {3, 2}}};
  const Layout& l = toy();
  const std::vector<PublicNames> files{{&l, weights}, {&l, adapters, 8}};
  const std::vector<ImportPlan> plans = plan_imports(files, kToyOurs, {true, 2});
  ASSERT_EQ(plans.at(0).recipes.size(), 2u);
  const Recipe& r = plans[0].recipes[1];
  EXPECT_EQ(r.name, "w.0.weight");
  EXPECT_EQ(*r.lora_a, 2u);
  EXPECT_EQ(*r.lora_b, 3u);
  EXPECT_EQ(r.lora_scale, 8) << "of the adapters' own file";
  EXPECT_EQ(text_of(plans[1].unexpected), "");
  EXPECT_NE(message_of<DataError>([&] {
              plan_imports(std::span(files).last(1), kToyOurs, {true, 2});
            }).find("give the file that has it"),
            std::string::npos);
}

TEST(NameMap, tied_tables_fill_both_where_there_is_no_second) {
  const Names ours{{"language.embed_tokens.weight", {9, 2}}, {"language.lm_head.weight", {9, 2}}};
  const Names tied{{"model.embed_tokens.weight", {9, 2}}};
  Names both = tied;
  both.push_back({"lm_head.weight", {9, 2}});
  const Layout l = layout_of("qwen2");
  const ImportPlan plan = plan_import(l, tied, ours, {});
  ASSERT_EQ(plan.recipes.size(), 2u);
  EXPECT_EQ(text_of(plan.tied), "language.lm_head.weight");
  const ImportPlan two = plan_import(l, both, ours, {});
  EXPECT_EQ(two.recipes.at(1).source, 1u);
  EXPECT_EQ(text_of(two.tied), "");
  const Names head{{"lm_head.weight", {9, 2}}};
  const std::vector<PublicNames> files{{&l, tied}, {&l, head}};
  const std::vector<ImportPlan> apart = plan_imports(files, ours, {});
  EXPECT_EQ(apart[0].recipes.size() + apart[1].recipes.size(), 2u);
  EXPECT_EQ(text_of(apart[0].tied), "");
}

TEST(NameMap, what_ours_cannot_express_is_refused) {
  Layout l{"odd", "", {}};
  append_rows(l.rows, "", "", {patches(4, "p", "p"), grown(3, "g", "g"), zeros(2, "h", "h", "why")});
  for (const NamedShape& bad :
       {NamedShape{"p", {5, 13}}, NamedShape{"p", {5, 15}}, NamedShape{"g", {3, 2}}, NamedShape{"h", {3}}})
    EXPECT_NE(message_of<DataError>([&] { plan_export(l, Names{bad}, {}); }).find(bad.name + " ("), std::string::npos);
}

}  // namespace
}  // namespace tpo
