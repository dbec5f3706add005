// The command-line parser: what it reads, and that nothing illegal passes.
#include "launcher/commands/args.h"

#include <gtest/gtest.h>

#include "core/error.h"

namespace tpo {
namespace {

Args parse(const std::vector<std::string>& words) {
  return Args({"data test",
               "Does nothing.",
               "<folder>",
               "tpo_dist data test here",
               {{"count", "how many", "3", Flag::Kind::kText},
                {"set", "override", "", Flag::Kind::kList},
                {"fast", "no checks", "", Flag::Kind::kSwitch}}},
              words);
}

std::string error_of(const std::vector<std::string>& words) {
  try {
    parse(words);
  } catch (const ConfigError& e) {
    return e.what();
  }
  return "";
}

TEST(Args, values_switches_lists_and_words) {
  const Args args = parse({"here", "--count", "7", "--set", "a=1", "--fast", "--set=b=2"});
  EXPECT_EQ(args.integer("count", 0, 10), 7);
  EXPECT_EQ(args.list("set"), (std::vector<std::string>{"a=1", "b=2"}));
  EXPECT_TRUE(args.is_on("fast"));
  EXPECT_EQ(args.words(1)[0], "here");
  EXPECT_EQ(parse({}).integer("count", 0, 10), 3);
  EXPECT_FALSE(parse({}).is_on("fast"));
  EXPECT_TRUE(parse({"--help"}).help());
}

TEST(Args, illegal_words_are_named_with_what_would_be_legal) {
  EXPECT_EQ(error_of({"--cuont", "3"}),
            "data test: unknown flag --cuont; did you mean --count?; legal are: --count --set --fast --help");
  EXPECT_EQ(error_of({"--count"}), "data test: --count needs a value: how many");
  EXPECT_EQ(error_of({"--fast=1"}), "data test: --fast is a switch and takes no value");
  EXPECT_EQ(error_of({"--count", "1", "--count", "2"}), "data test: --count is given twice");
  EXPECT_THROW(parse({"--count", "eleven"}).integer("count", 0, 10), ConfigError);
  EXPECT_THROW(parse({"--count", "11"}).integer("count", 0, 10), ConfigError);
  EXPECT_THROW(parse({"--count", "1x"}).real("count", 0, 10), ConfigError);
  EXPECT_THROW(parse({"--count", "nan"}).real("count", 0, 10), ConfigError);
  EXPECT_THROW(parse({"--count", "c"}).choice("count", {"a", "b"}), ConfigError);
  EXPECT_EQ(parse({"--count", "b"}).choice("count", {"a", "b"}), 1);
  EXPECT_THROW(parse({"a", "b"}).words(1), ConfigError);
  EXPECT_THROW(parse({}).required("set"), ConfigError);
}

TEST(Args, usage_shows_every_flag_with_its_default_and_the_example) {
  const std::string usage = parse({}).usage();
  for (const char* part : {"tpo_dist data test <folder>", "--count", "(default 3)", "--set VALUE (repeatable)",
                           "--fast\n", "Example:\n  tpo_dist data test here"}) {
    EXPECT_NE(usage.find(part), std::string::npos) << part << " in\n" << usage;
  }
}

}  // namespace
}  // namespace tpo
