#pragma once
// Which name of a public checkpoint (theirs) is which parameter (ours): tables of rows, one table per layout
// (layouts.cpp), read in both directions.
// A name in a row is literal, but for # (a decimal number; the n-th # of one side is the n-th of the other), {a,b}
// (either, in the same position on both sides; such a row stands for several) and, for what has no counterpart, *.
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace tpo {

struct MapRow {
  enum class How {
    kSame,        // one shape, the same elements
    kLeadingOne,  // theirs has one dim of 1 more, in front
    kPatches,     // theirs (O, 3, p, p), or (O, 3, 1, p, p) if dims is 5; ours (O, p*p*3): colours last
    kGrown,       // ours has `added` rows more, the mean of the others (theirs may have them already)
    kCounting,    // theirs is int64 (1, n): 0 to n - 1; ours is a table of n rows that says n and gives nothing else
    kZeros,       // not needed; theirs (rows, C) is zeros in what ours (., C) computes, and is written as such
    kUnused,      // nothing here needs it; `why` says so
    kLater        // belongs to a part that this version does not have yet, named by `why`
  };
  How how = How::kSame;
  std::string theirs = {}, ours = {}, why = {};
  int added = 0, dims = 0, rows = 0;
  bool import_only = false;  // another spelling, or a second use of what another row gives already
  bool fallback = false;     // holds if no other row gives ours
  int spare = -1;            // of a tower: layers (#) beyond those of this model that theirs may have; -1: no tower
};

inline MapRow same(std::string theirs, std::string ours) {
  return {.how = MapRow::How::kSame, .theirs = std::move(theirs), .ours = std::move(ours)};
}
inline MapRow leading_one(std::string theirs, std::string ours) {
  return {.how = MapRow::How::kLeadingOne, .theirs = std::move(theirs), .ours = std::move(ours)};
}
inline MapRow patches(int dims, std::string theirs, std::string ours) {
  return {.how = MapRow::How::kPatches, .theirs = std::move(theirs), .ours = std::move(ours), .dims = dims};
}
inline MapRow grown(int added, std::string theirs, std::string ours) {
  return {.how = MapRow::How::kGrown, .theirs = std::move(theirs), .ours = std::move(ours), .added = added};
}
inline MapRow counting(std::string theirs, std::string table) {
  return {.how = MapRow::How::kCounting, .theirs = std::move(theirs), .ours = std::move(table)};
}
inline MapRow zeros(int rows, std::string theirs, std::string ours, std::string why) {
  return {.how = MapRow::How::kZeros,
          .theirs = std::move(theirs),
          .ours = std::move(ours),
          .why = std::move(why),
          .rows = rows};
}
inline MapRow unused(std::string theirs, std::string why) {
  return {.how = MapRow::How::kUnused, .theirs = std::move(theirs), .why = std::move(why)};
}
inline MapRow later(std::string theirs, std::string why) {
  return {.how = MapRow::How::kLater, .theirs = std::move(theirs), .why = std::move(why)};
}
inline MapRow import_only(MapRow row) {
  row.import_only = true;
  return row;
}
inline MapRow fallback(MapRow row) {
  row.import_only = row.fallback = true;
  return row;
}
inline MapRow tower(int spare, MapRow row) {
  row.spare = spare;
  return row;
}

struct Layout {
  std::string name;          // "videochat_tpo"
  std::string about;         // one line: which public checkpoint, what of the model it fills
  std::vector<MapRow> rows;  // without {}
};

// The rows of a table with {} resolved and the prefixes before both names, appended. Throws logic_error for a row whose
// sides do not have the same number of # and of alternatives.
void append_rows(std::vector<MapRow>& rows, const std::string& theirs_prefix, const std::string& ours_prefix,
                 const std::vector<MapRow>& table);

// The numbers that stand where the pattern has #, or nothing if the name is another one.
std::optional<std::vector<std::string>> match_name(std::string_view pattern, std::string_view name);
// The pattern with its # filled. Requires: as many numbers.
std::string fill_name(std::string_view pattern, const std::vector<std::string>& numbers);

std::vector<std::string> layout_names();
// Throws ConfigError that lists the legal names.
Layout layout_of(std::string_view name);

}  // namespace tpo
