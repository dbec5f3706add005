#pragma once
// Files of a run folder: atomic small writes, and log.jsonl with one JSON object a line.
#include <cstdint>
#include <fstream>
#include <span>
#include <string>
#include <vector>

namespace tpo {

// Writes to a temporary name and renames. Throws IoError naming the file and the system's reason.
void write_bytes(const std::string& path, std::span<const std::byte> bytes);
void write_text(const std::string& path, const std::string& text);

// The text in quotes, as JSON writes it. Requires: UTF-8.
std::string json_string(const std::string& text);

// One JSON object, fields in the order of calls. Numbers that are not finite become null.
class JsonLine {
 public:
  JsonLine& number(const std::string& key, double value);
  JsonLine& integer(const std::string& key, int64_t value);
  JsonLine& text(const std::string& key, const std::string& value);
  JsonLine& raw(const std::string& key, const std::string& json);  // a value that is JSON already
  JsonLine& object(const std::string& key, const JsonLine& value) { return raw(key, value.str()); }
  std::string str() const { return "{" + body_ + "}"; }

 private:
  void key(const std::string& key);
  std::string body_;
};

// Appends lines to <folder>/log.jsonl, each flushed. Opened for a run that continues at `steps_done`, it first drops
// the records of later steps, which the run will make again. Throws IoError.
class RunLog {
 public:
  RunLog(const std::string& folder, int64_t steps_done);
  void write(const JsonLine& line);

 private:
  std::string path_;
  std::ofstream out_;
};

// Value of a number field of a line written by JsonLine; false if absent or null.
bool json_number(const std::string& line, const std::string& key, double& value);
// Value of a text field; empty if absent.
std::string json_text(const std::string& line, const std::string& key);

}  // namespace tpo
