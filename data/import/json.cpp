#include "data/import/json.h"

#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "core/error.h"

namespace tpo {

using Node = nlohmann::json;

struct Json::Document {
  Node root;
};

namespace {

const Node& node_of(const void* p) { return *static_cast<const Node*>(p); }

const char* kind_name(Json::Kind k) {
  constexpr const char* kNames[] = {"null", "true/false", "a number", "a string", "a list", "an object"};
  return kNames[static_cast<int>(k)];
}

}  // namespace

Json::Json(std::shared_ptr<const Document> doc, const void* node, std::string where)
    : doc_(std::move(doc)), node_(node), where_(std::move(where)) {}

Json Json::parse(const std::string& text, const std::string& where) {
  auto doc = std::make_shared<Document>();
  try {
    doc->root = Node::parse(text);
  } catch (const Node::exception& e) {  // a syntax error, or a number that no double holds
    // The library's text names line and column; its bracketed error number means nothing to a user.
    const std::string what = e.what();
    const size_t bracket = what.find("] ");
    throw DataError(cat(where, ": not JSON: ", bracket == std::string::npos ? what : what.substr(bracket + 2)));
  }
  const void* root = &doc->root;
  return Json(std::move(doc), root, where);
}

Json Json::parse_file(const std::string& path) {
  std::ifstream in(path, std::ios::binary);
  check<IoError>(in.good(), path, ": cannot be opened for reading");
  std::stringstream text;
  text << in.rdbuf();
  check<IoError>(!in.bad() && !text.fail(), path, ": is empty or cannot be read");
  return parse(text.str(), path);
}

void Json::fail(const std::string& message) const { throw DataError(where_ + ": " + message); }

Json::Kind Json::kind() const {
  const Node& n = node_of(node_);
  if (n.is_null()) return Kind::kNull;
  if (n.is_boolean()) return Kind::kBool;
  if (n.is_number()) return Kind::kNumber;
  if (n.is_string()) return Kind::kString;
  return n.is_array() ? Kind::kList : Kind::kObject;
}

std::string Json::text() const {
  if (!is(Kind::kString)) fail(cat("must be a string but is ", kind_name(kind())));
  return node_of(node_).get<std::string>();
}

double Json::number() const {
  if (!is(Kind::kNumber)) fail(cat("must be a number but is ", kind_name(kind())));
  return node_of(node_).get<double>();
}

int64_t Json::integer() const {
  const double x = number();
  if (std::floor(x) != x || std::abs(x) > 0x1p53) fail(cat("must be a whole number but is ", x));
  return static_cast<int64_t>(x);
}

bool Json::boolean() const {
  if (!is(Kind::kBool)) fail(cat("must be true or false but is ", kind_name(kind())));
  return node_of(node_).get<bool>();
}

std::vector<double> Json::numbers(size_t count) const {
  if (!is(Kind::kList)) fail(cat("must be a list of numbers but is ", kind_name(kind())));
  if (count != 0 && size() != count) fail(cat("must be a list of ", count, " numbers but has ", size()));
  std::vector<double> out;
  out.reserve(size());
  for (size_t i = 0; i < size(); ++i) out.push_back(at(i).number());
  return out;
}

size_t Json::size() const {
  if (!is(Kind::kList) && !is(Kind::kObject)) fail(cat("must be a list but is ", kind_name(kind())));
  return node_of(node_).size();
}

Json Json::child(const void* node, const std::string& step) const { return Json(doc_, node, where_ + step); }

Json Json::at(size_t i) const {
  if (!is(Kind::kList)) fail(cat("must be a list but is ", kind_name(kind())));
  return child(&node_of(node_)[i], "[" + std::to_string(i) + "]");
}

Json Json::record(size_t i) const {
  if (!is(Kind::kList)) fail(cat("must be a list of records but is ", kind_name(kind())));
  return child(&node_of(node_)[i], cat(" record ", i));
}

std::optional<Json> Json::find(const std::string& key) const {
  if (!is(Kind::kObject)) fail(cat("must be an object with a field '", key, "' but is ", kind_name(kind())));
  const auto it = node_of(node_).find(key);
  if (it == node_of(node_).end() || it->is_null()) return std::nullopt;
  // The first field is set off from the record; deeper ones are joined by dots.
  return child(&*it, (where_.find(", field ") == std::string::npos ? ", field " : ".") + key);
}

Json Json::at(const std::string& key) const {
  auto found = find(key);
  if (!found) fail(cat("field '", key, "' is missing or null"));
  return *found;
}

std::vector<std::string> Json::keys() const {
  if (!is(Kind::kObject)) fail(cat("must be an object but is ", kind_name(kind())));
  std::vector<std::string> out;
  for (auto it = node_of(node_).begin(); it != node_of(node_).end(); ++it) out.push_back(it.key());
  return out;
}

void Json::allow_only(std::initializer_list<const char*> legal) const {
  std::string all;
  for (const char* key : legal) all += std::string(all.empty() ? "" : ", ") + key;
  for (const std::string& key : keys()) {
    bool known = false;
    for (const char* l : legal) known = known || key == l;
    if (!known) fail(cat("unknown field '", key, "'; legal are ", all));
  }
}

void for_each_json_line(const std::string& path,
                        const std::function<void(const std::string& where, const std::string& text)>& fn) {
  std::ifstream in(path, std::ios::binary);
  check<IoError>(in.good(), path, ": cannot be opened for reading");
  std::string line;
  for (int64_t number = 1; std::getline(in, line); ++number) {
    if (line.find_first_not_of(" \t\r") == std::string::npos) continue;
    fn(cat(path, ":", number), line);
  }
  check<IoError>(!in.bad(), path, ": cannot be read");
}

}  // namespace tpo
