#pragma once
// Typed reading of JSON whose every complaint names file, record and field. Values are light handles that share the
// parsed document. The parser itself appears only in json.cpp.
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace tpo {

class Json {
 public:
  enum class Kind { kNull, kBool, kNumber, kString, kList, kObject };

  // Parses text; `where` begins every message, for instance "train.json". Throws DataError with line and column.
  static Json parse(const std::string& text, const std::string& where);
  // Reads and parses a whole file. Throws IoError when it cannot be read.
  static Json parse_file(const std::string& path);

  const std::string& where() const { return where_; }        // "train.json record 3, field image"
  [[noreturn]] void fail(const std::string& message) const;  // throws DataError "where: message"

  Kind kind() const;
  bool is(Kind k) const { return kind() == k; }

  // Typed values; DataError "where: must be a string but is a number" otherwise. integer() wants a whole number that a
  // double holds exactly (COCO writes some as 483.0).
  std::string text() const;
  double number() const;
  int64_t integer() const;
  bool boolean() const;
  // A list of exactly `count` numbers (count 0: any length).
  std::vector<double> numbers(size_t count = 0) const;

  size_t size() const;          // of a list or object
  Json at(size_t i) const;      // list element
  Json record(size_t i) const;  // list element named "record i" in messages, for the top list of a file
  // Member of an object: `at` requires it; `find` gives nothing when it is absent or null.
  Json at(const std::string& key) const;
  std::optional<Json> find(const std::string& key) const;
  std::vector<std::string> keys() const;
  // DataError when the object has a key outside `legal`: catches typing errors in formats that we define.
  void allow_only(std::initializer_list<const char*> legal) const;

 private:
  struct Document;
  Json(std::shared_ptr<const Document> doc, const void* node, std::string where);
  Json child(const void* node, const std::string& step) const;

  std::shared_ptr<const Document> doc_;
  const void* node_;
  std::string where_;
};

// Calls fn("path:line", text) for each line of a JSONL file that is not blank. Memory: one line.
void for_each_json_line(const std::string& path,
                        const std::function<void(const std::string& where, const std::string& text)>& fn);

}  // namespace tpo
