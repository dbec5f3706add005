#include "checkpoint/manifest.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <set>
#include <span>

#include "checkpoint/checksum.h"
#include "checkpoint/file_io.h"
#include "checkpoint/folder.h"
#include "core/error.h"

namespace tpo {
namespace {

using checkpoint::Manifest;
using checkpoint::Piece;
using checkpoint::TensorEntry;
using google::protobuf::TextFormat;

constexpr std::string_view kLead = "# tpo_dist checkpoint, xxh3 ";
constexpr std::string_view kTrail = " of all bytes after this line\n";
constexpr DType kTypes[] = {DType::kF32, DType::kBF16, DType::kI32, DType::kI64, DType::kU8};

// Keeps the first complaint; without a collector protobuf prints.
class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, google::protobuf::io::ColumnNumber column, const std::string& message) override {
    if (text_.empty()) text_ = cat("line ", line + 2, " column ", column + 1, ": ", message);
  }
  const std::string& text() const { return text_; }

 private:
  std::string text_;
};

std::string parse(const std::string& body, Manifest* out) {
  TextFormat::Parser parser;
  FirstError error;
  parser.RecordErrorsTo(&error);
  if (parser.ParseFromString(body, out)) return "";
  return error.text().empty() ? "not protobuf text" : error.text();
}

// The number of a field among those with which a body begins, one a line; 0 if it is not there.
int64_t leading_number(std::string_view body, std::string_view field) {
  while (!body.empty()) {
    const size_t colon = std::min(body.find(": "), body.size());
    int64_t value = 0;
    const auto [end, error] =
        std::from_chars(body.data() + std::min(colon + 2, body.size()), body.data() + body.size(), value);
    if (error != std::errc()) return 0;
    if (body.substr(0, colon) == field) return value;
    body.remove_prefix(std::min(body.find('\n'), body.size() - 1) + 1);
  }
  return 0;
}

void check_version(int64_t version, const std::string& path) {
  check<DataError>(version >= kOldestCheckpointVersion && version <= kCheckpointVersion, path, " has format version ",
                   version, "; this build reads versions ", kOldestCheckpointVersion, " to ", kCheckpointVersion);
}

bool plain_name(const std::string& name) {
  for (char c : name) {
    if (c <= ' ' || c > '~' || c == '/') return false;
  }
  return !name.empty() && name != "." && name != "..";
}

// Throws unless the extents are legal and their product fits; dims of foreign origin must not overflow.
void check_extents(const TensorEntry& t, const std::string& path) {
  check<DataError>(t.shape_size() <= Shape::kMaxRank, path, ": tensor ", t.name(), " has ", t.shape_size(),
                   " dims; at most ", Shape::kMaxRank, " are legal");
  constexpr int64_t kLimit = std::numeric_limits<int64_t>::max() / 16;
  int64_t n = 1;
  for (int64_t d : t.shape()) {
    check<DataError>(d >= 0 && (d == 0 || n <= kLimit / d), path, ": tensor ", t.name(), " has an impossible extent ",
                     d);
    n *= d;
  }
}

void check_place(const Manifest& m, const TensorEntry& t, const Piece& p, const std::string& path) {
  const int64_t size = static_cast<int64_t>(size_of(dtype_of(t)));
  check<DataError>(p.bytes() == p.count() * size, path, ": tensor ", t.name(), " has a piece of ", p.count(),
                   " elements in ", p.bytes(), " bytes");
  check<DataError>(p.file() >= 0 && p.file() < m.files_size(), path, ": tensor ", t.name(), " lies in file number ",
                   p.file(), " of ", m.files_size());
  const int64_t file_bytes = m.files(p.file()).bytes();
  check<DataError>(p.offset() >= 0 && p.bytes() <= file_bytes && p.offset() <= file_bytes - p.bytes(), path,
                   ": tensor ", t.name(), " lies at ", p.offset(), ", outside its file of ", file_bytes, " bytes");
}

// The pieces hold every element once.
void check_pieces(const Manifest& m, const TensorEntry& t, const std::string& path) {
  const Shape full = shape_of(t);
  std::vector<Rect> rects;
  Part previous;
  for (const Piece& p : t.pieces()) {
    check<DataError>(p.has_row() == p.has_rows() && p.has_row() == p.has_col() && p.has_row() == p.has_cols() &&
                         (m.version() > 1 || !p.has_row()),
                     path, ": tensor ", t.name(), " has a piece with half a rectangle, or one in version 1");
    const Part part = part_of(p, full);
    check<DataError>(lies_in(part, full) && part.count > 0, path, ": tensor ", t.name(), " has a piece of ",
                     text_of(part, full), ", which is no part of ", full);
    check<DataError>(rects.empty() || previous < part, path, ": the pieces of tensor ", t.name(),
                     " are out of order at ", text_of(part, full));
    check_place(m, t, p, path);
    for (const Rect& r : rects_of(part)) rects.push_back(r);
    previous = part;
  }
  const auto twice = first_shared(rects);
  check<DataError>(!twice, path, ": tensor ", t.name(), " has element ", twice.value_or(Element{}), " in two pieces");
  int64_t held = 0;
  for (const Piece& p : t.pieces()) held += p.count();
  check<DataError>(held == full.numel(), path, ": tensor ", t.name(), " has ", held, " of ", full.numel(),
                   " elements and not ", held == full.numel() ? Element{} : first_missing(rects, full).value());
}

void check_rules(const Manifest& m, const std::string& path) {
  check<DataError>(m.step() >= 0, path, ": step ", m.step(), "; at least 0 is legal");
  check<DataError>(m.world() >= 1, path, ": world ", m.world(), "; at least 1 is legal");
  std::set<std::string> names;
  for (const checkpoint::File& f : m.files()) {
    check<DataError>(plain_name(f.name()) && f.name() != kManifestName && f.bytes() >= 0, path,
                     ": bad shard file name or length: ", f.name());
    check<DataError>(names.insert(f.name()).second, path, ": two shard files are named ", f.name());
  }
  names.clear();
  for (const checkpoint::Counter& c : m.counters()) {
    check<DataError>(names.insert(c.name()).second, path, ": two counters are named ", c.name());
  }
  std::string previous;
  for (const TensorEntry& t : m.tensors()) {
    const bool legal = plain_name(t.name()) && t.name().find('@') == std::string::npos;  // @ begins a piece's name
    check<DataError>(legal && t.name() > previous, path, ": tensor name ", t.name(), " after ", previous,
                     " is illegal or out of order");
    previous = t.name();
    dtype_of(t);
    check_extents(t, path);
    check_pieces(m, t, path);
  }
}

}  // namespace

Shape shape_of(const TensorEntry& entry) {
  Shape s;
  for (int64_t d : entry.shape()) s.push_back(d);
  return s;
}

DType dtype_of(const TensorEntry& entry) {
  for (DType t : kTypes) {
    if (entry.dtype() == name_of(t)) return t;
  }
  throw DataError(
      cat("tensor ", entry.name(), " has element type ", entry.dtype(), "; f32, bf16, i32, i64 and u8 are legal"));
}

Part part_of(const Piece& piece, const Shape& full) {
  if (!piece.has_row()) return {whole_of(full), piece.begin(), piece.count()};
  return {{piece.row(), piece.rows(), piece.col(), piece.cols()}, piece.begin(), piece.count()};
}

Piece piece_of(const Part& part, const Shape& full) {
  Piece p;
  p.set_begin(part.begin), p.set_count(part.count);
  if (part.rect != whole_of(full)) {
    p.set_row(part.rect.row), p.set_rows(part.rect.rows), p.set_col(part.rect.col), p.set_cols(part.rect.cols);
  }
  return p;
}

std::string manifest_text(const Manifest& manifest, int64_t most) {
  TextFormat::Printer printer;
  std::string body;
  printer.SetUseShortRepeatedPrimitives(true);
  const bool printed = printer.PrintToString(manifest, &body);  // which ends at 2 GiB, too
  const auto length = static_cast<int64_t>(kLead.size() + 16 + kTrail.size() + body.size());
  check<ConfigError>(printed && length <= most, "[checkpoint] the manifest of ", manifest.tensors_size(),
                     " tensors in ", manifest.files_size(), " files is longer than ", most,
                     " bytes; cut the tensors over fewer ranks");
  return cat(kLead, hex64(checksum_of(body)), kTrail, body);
}

Manifest parse_manifest(std::string text, const std::string& path) {
  const size_t head = kLead.size() + 16 + kTrail.size();
  check<DataError>(
      text.size() >= head && text.starts_with(kLead) && text.substr(head - kTrail.size()).starts_with(kTrail), path,
      " is not a checkpoint manifest: its first line must begin with \"", kLead, "\"");
  const std::string stated = text.substr(kLead.size(), 16);
  text.erase(0, head);
  // A later version may have fields that this build does not know; its number is the first, and found without them.
  if (const int64_t version = leading_number(text, "version"); version != 0) check_version(version, path);
  const std::string found = hex64(checksum_of(text));
  check<DataError>(found == stated, path, " is damaged or was edited: its text has checksum ", found,
                   ", the first line says ", stated);
  Manifest m;
  const std::string complaint = parse(text, &m);
  check<DataError>(complaint.empty(), path, " cannot be parsed: ", complaint);
  check<DataError>(m.version() != 0, path, " has no format version");
  check_version(m.version(), path);
  check_rules(m, path);
  return m;
}

Manifest read_checkpoint_manifest(const std::string& folder) {
  const std::string path = cat(folder, "/", kManifestName);
  std::error_code none;
  check<IoError>(std::filesystem::is_directory(folder, none), folder, " is not a checkpoint folder: no such folder");
  Manifest m = parse_manifest(read_file(path, kMaxManifestBytes), path);
  const auto named = step_of_name(std::filesystem::path(path).parent_path().filename().string());
  check<DataError>(!named || *named == m.step(), path, " is of step ", m.step(), "; its folder's name is of another");
  return m;
}

int64_t created_unix_ns(const std::string& folder) {
  const File file(cat(folder, "/", kManifestName), File::Mode::kRead);
  std::string head(static_cast<size_t>(std::min<int64_t>(4096, file.size())), '\0');
  file.read(std::as_writable_bytes(std::span(head.data(), head.size())), 0);
  const size_t line = std::min(head.find('\n'), head.size() - 1);
  return head.empty() ? 0 : leading_number(std::string_view(head).substr(line + 1), "created_unix_ns");
}

void check_shard_files(const Manifest& manifest, const std::string& folder) {
  for (const checkpoint::File& f : manifest.files()) {
    const std::string path = cat(folder, "/", f.name());
    std::error_code none;
    check<DataError>(std::filesystem::is_regular_file(path, none), "checkpoint shard ", path, " is missing");
    const int64_t found = File(path, File::Mode::kRead).size();
    check<DataError>(found == f.bytes(), "checkpoint shard ", path, " has ", found, " bytes; the manifest says ",
                     f.bytes());
  }
}

}  // namespace tpo
