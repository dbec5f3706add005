#pragma once
// Strict reading of JSON from foreign files, one value after the other, without a tree: the memory is what the caller
// keeps. Every complaint is a DataError that begins with `where` and ends with the byte.
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>

namespace tpo {

class JsonCursor {
 public:
  // Requires: text outlives the cursor.
  JsonCursor(std::string_view text, std::string where) : text_(text), where_(std::move(where)) {}

  // The cursor stands before a value of that kind; afterwards behind it. `member` and `element` must consume the value.
  // Keys that appear twice are handed over twice: what that means is the caller's to say.
  void object(const std::function<void(const std::string& key)>& member);
  void list(const std::function<void()>& element);
  std::string string();  // escapes resolved; UTF-8, or it is refused
  int64_t integer();     // 0 to 2^63 - 1, digits only
  bool null();           // whether null stands there; then it is consumed
  void skip();           // any value; at most 32 deep
  void end();            // nothing but white space follows

  [[noreturn]] void fail(const std::string& message) const;

 private:
  char peek();  // next character that is not white space, 0 at the end
  void expect(char c);
  char take();  // next byte of a string
  void escape(std::string& out);
  uint32_t hex4();

  std::string_view text_;
  std::string where_;
  size_t at_ = 0;
  int depth_ = 0;
};

// "text" in quotes, with what JSON wants escaped.
std::string json_quoted(std::string_view text);

}  // namespace tpo
