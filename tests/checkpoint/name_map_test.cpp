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
                {part(0, 3, "q", "qkv.weight"), part(1, 3, "k", "qkv.weight"), part(2, 3, "v", "qkv.weight"),
                 grown(2, "table", "table.weight"), same("w.#", "w.#.weight"), same("a.#", "w.#.lora_a"),
                 same("b.#", "w.#.lora_b"), import_only(same("old.#", "w.#.weight")), later("sam.*", "mask head")});
    return l;
  }();
  return layout;
}
const Names kToyOurs{
    {"qkv.weight", {8, 4}}, {"table.weight", {7, 4}}, {"w.0.weight", {3, 4}}, {"w.1.weight", {3, 4}}, {"other", {1}}};

TEST(NameMap, what_does_not_fit_is_listed) {
  const Names theirs{{"q", {4, 4}},   {"k", {2, 4}},   {"v", {2, 4}},    {"table", {5, 4}},
                     {"w.1", {4, 3}}, {"w.2", {3, 4}}, {"sam.x.y", {9}}, {"noise", {2}}};
  const ImportPlan plan = plan_import(toy(), theirs, kToyOurs, {});
  EXPECT_EQ(text_of(plan.missing), "w.0.weight");
  EXPECT_EQ(text_of(plan.unexpected), "w.2 noise");
  EXPECT_EQ(plan.unexpected[0].text, "this model has no w.2.weight");
  EXPECT_EQ(plan.reshaped.at(0).text, "w.1.weight (3, 4) here, w.1 (4, 3) there");
  EXPECT_EQ(plan.later.at(0).text, "mask head");
  EXPECT_EQ(plan.outside, 1);
  ASSERT_EQ(plan.recipes.size(), 2u);
  EXPECT_EQ(plan.recipes[0].pieces[1].to, 16) << "parts of unequal rows, one below the other";
  EXPECT_EQ(plan.recipes[1].mean_rows, 2);
  Names cut(theirs.begin() + 1, theirs.end());
  EXPECT_EQ(plan_import(toy(), cut, kToyOurs, {}).missing.at(0).text, "2 of its 3 parts");
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

TEST(NameMap, what_ours_cannot_express_is_refused) {
  Layout l{"odd", "", {}};
  append_rows(l.rows, "", "", {patches(4, "p", "p"), grown(3, "g", "g"), part(0, 2, "h", "h")});
  for (const NamedShape& bad :
       {NamedShape{"p", {5, 13}}, NamedShape{"p", {5, 15}}, NamedShape{"g", {3, 2}}, NamedShape{"h", {3, 2}}})
    EXPECT_NE(message_of<DataError>([&] { plan_export(l, Names{bad}, {}); }).find(bad.name + " ("), std::string::npos);
}

}  // namespace
}  // namespace tpo
