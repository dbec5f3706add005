#include "launcher/config.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>

#include <algorithm>
#include <charconv>
#include <fstream>
#include <sstream>

#include "core/device.h"
#include "core/error.h"
#include "launcher/build.h"

namespace tpo {

namespace pb = google::protobuf;

namespace {

using Errors = std::vector<std::string>;

std::vector<std::string> field_names(const pb::Descriptor* d) {
  std::vector<std::string> names;
  for (int i = 0; i < d->field_count(); ++i) names.push_back(d->field(i)->name());
  return names;
}

std::string join(const std::vector<std::string>& parts, const std::string& separator) {
  std::string out;
  for (const auto& p : parts) out += (out.empty() ? "" : separator) + p;
  return out;
}

std::string suggestion(const std::string& name, const std::vector<std::string>& legal) {
  const std::string near = nearest(name, legal);
  return near.empty() ? cat("legal here: ", join(legal, ", ")) : cat("did you mean ", near, "?");
}

// Text-format errors and unknown fields (which the parser reports as warnings when they are allowed) with their place.
class Collector : public pb::io::ErrorCollector {
 public:
  struct Entry {
    int line, column;
    std::string text;
  };
  void AddError(int line, pb::io::ColumnNumber column, const std::string& m) override {
    errors.push_back({line, column, m});
  }
  void AddWarning(int line, pb::io::ColumnNumber column, const std::string& m) override {
    warnings.push_back({line, column, m});
  }
  std::vector<Entry> errors, warnings;
};

// All field names of the schema: an unknown key's warning does not say which message it stood in in a usable form.
void all_names(const pb::Descriptor* d, std::vector<std::string>& out) {
  for (int i = 0; i < d->field_count(); ++i) {
    out.push_back(d->field(i)->name());
    if (d->field(i)->message_type() != nullptr) all_names(d->field(i)->message_type(), out);
  }
}

// "Message type \"tpo.config.Train\" has no field named \"stepz\"." -> {message, field}
std::pair<std::string, std::string> unknown_field(const std::string& warning) {
  std::vector<std::string> quoted;
  for (size_t at = 0; (at = warning.find('"', at)) != std::string::npos;) {
    const size_t end = warning.find('"', at + 1);
    if (end == std::string::npos) break;
    quoted.push_back(warning.substr(at + 1, end - at - 1));
    at = end + 1;
  }
  return quoted.size() >= 2 ? std::make_pair(quoted[0], quoted[1]) : std::make_pair(std::string(), std::string());
}

std::string explain_unknown(const std::string& warning) {
  const auto [type, field] = unknown_field(warning);
  const pb::Descriptor* d = config::RunConfig::descriptor()->file()->pool()->FindMessageTypeByName(type);
  if (d == nullptr) return warning;
  return cat("unknown field ", field, " in ", d->name(), "; ", suggestion(field, field_names(d)));
}

// The parser stops at its first error. To show all of them at once, the offending line is blanked and the rest parsed
// again, as long as the line opens or closes no message (then what follows could not be understood).
void parse_text(std::string text, const std::string& origin, config::RunConfig& out, Errors& errors) {
  for (int round = 0; round < 50; ++round) {
    Collector collector;
    pb::TextFormat::Parser parser;
    parser.RecordErrorsTo(&collector);
    parser.AllowUnknownField(true);
    out.Clear();
    const bool ok = parser.ParseFromString(text, &out);
    if (ok) {
      for (const auto& w : collector.warnings)
        errors.push_back(cat(origin, ":", w.line + 1, ": ", explain_unknown(w.text)));
      return;
    }
    if (collector.errors.empty()) {
      errors.push_back(cat(origin, ": cannot be parsed"));
      return;
    }
    const auto& e = collector.errors.front();
    errors.push_back(cat(origin, ":", e.line + 1, ":", e.column + 1, ": ", e.text));
    size_t begin = 0;
    for (int line = 0; line < e.line && begin != std::string::npos; ++line) {
      begin = text.find('\n', begin);
      if (begin != std::string::npos) ++begin;
    }
    if (begin == std::string::npos) return;
    const size_t end = std::min(text.find('\n', begin), text.size());
    const std::string line = text.substr(begin, end - begin);
    if (line.find_first_of("{}<>") != std::string::npos || line.find_first_not_of(" \t") == std::string::npos) return;
    text.replace(begin, end - begin, std::string(end - begin, ' '));
  }
}

template <class T>
bool parse_number(const std::string& text, T& value) {
  const auto [end, ec] = std::from_chars(text.data(), text.data() + text.size(), value);
  return ec == std::errc() && end == text.data() + text.size();
}

// Sets or appends one scalar field from text; returns an error or empty.
std::string set_scalar(pb::Message* m, const pb::FieldDescriptor* f, int index, const std::string& value) {
  const pb::Reflection* r = m->GetReflection();
  const bool append = f->is_repeated() && index == r->FieldSize(*m, f);
  const auto put = [&](auto v, auto set, auto set_repeated, auto add) {
    if (!f->is_repeated()) {
      (r->*set)(m, f, v);
    } else if (append) {
      (r->*add)(m, f, v);
    } else {
      (r->*set_repeated)(m, f, index, v);
    }
    return std::string();
  };
  using R = pb::Reflection;
  switch (f->cpp_type()) {
    case pb::FieldDescriptor::CPPTYPE_INT32: {
      int32_t v;
      if (!parse_number(value, v)) return cat("'", value, "' is not a whole number");
      return put(v, &R::SetInt32, &R::SetRepeatedInt32, &R::AddInt32);
    }
    case pb::FieldDescriptor::CPPTYPE_INT64: {
      int64_t v;
      if (!parse_number(value, v)) return cat("'", value, "' is not a whole number");
      return put(v, &R::SetInt64, &R::SetRepeatedInt64, &R::AddInt64);
    }
    case pb::FieldDescriptor::CPPTYPE_UINT64: {
      uint64_t v;
      if (!parse_number(value, v)) return cat("'", value, "' is not a whole number of 0 or more");
      return put(v, &R::SetUInt64, &R::SetRepeatedUInt64, &R::AddUInt64);
    }
    case pb::FieldDescriptor::CPPTYPE_FLOAT: {
      float v;
      if (!parse_number(value, v)) return cat("'", value, "' is not a number");
      return put(v, &R::SetFloat, &R::SetRepeatedFloat, &R::AddFloat);
    }
    case pb::FieldDescriptor::CPPTYPE_DOUBLE: {
      double v;
      if (!parse_number(value, v)) return cat("'", value, "' is not a number");
      return put(v, &R::SetDouble, &R::SetRepeatedDouble, &R::AddDouble);
    }
    case pb::FieldDescriptor::CPPTYPE_BOOL: {
      if (value != "true" && value != "false") return cat("'", value, "' is not true or false");
      return put(value == "true", &R::SetBool, &R::SetRepeatedBool, &R::AddBool);
    }
    default:
      if (!f->is_repeated()) {
        r->SetString(m, f, value);
      } else if (append) {
        r->AddString(m, f, value);
      } else {
        r->SetRepeatedString(m, f, index, value);
      }
      return {};
  }
}

// One --set. Walks the path by reflection; repeated fields take an index, and an index equal to the count appends.
std::string apply_set(pb::Message* root, const std::string& assignment) {
  const std::string flag = cat("--set ", assignment, ": ");
  const size_t eq = assignment.find('=');
  if (eq == std::string::npos) return flag + "write path=value, for example train.steps=100";
  std::istringstream path(assignment.substr(0, eq));
  const std::string value = assignment.substr(eq + 1);
  std::vector<std::string> parts;
  for (std::string part; std::getline(path, part, '.');) parts.push_back(part);
  if (parts.empty()) return flag + "write path=value, for example train.steps=100";
  pb::Message* m = root;
  for (size_t i = 0; i < parts.size(); ++i) {
    const pb::FieldDescriptor* f = m->GetDescriptor()->FindFieldByName(parts[i]);
    if (f == nullptr)
      return cat(flag, "unknown field ", parts[i], " in ", m->GetDescriptor()->name(), "; ",
                 suggestion(parts[i], field_names(m->GetDescriptor())));
    int index = -1;
    if (f->is_repeated()) {
      const int count = m->GetReflection()->FieldSize(*m, f);
      if (i + 1 >= parts.size() || !parse_number(parts[i + 1], index) || index < 0 || index > count)
        return cat(flag, parts[i], " is a list of ", count, "; write ", parts[i], ".N with N from 0 to ", count);
      ++i;
    }
    const bool last = i + 1 == parts.size();
    if (f->message_type() == nullptr) {
      if (!last) return cat(flag, f->name(), " is a value and has no field ", parts[i + 1]);
      const std::string error = set_scalar(m, f, index, value);
      return error.empty() ? "" : flag + error;
    }
    if (last)
      return cat(flag, f->name(), " is a group of fields; choose one: ", join(field_names(f->message_type()), ", "));
    const pb::Reflection* r = m->GetReflection();
    m = !f->is_repeated()              ? r->MutableMessage(m, f)
        : index == r->FieldSize(*m, f) ? r->AddMessage(m, f)
                                       : r->MutableRepeatedMessage(m, f, index);
  }
  return {};
}

// A scalar as double for range checks; strings give nothing.
bool as_number(const pb::Message& m, const pb::FieldDescriptor* f, double& v) {
  const pb::Reflection* r = m.GetReflection();
  switch (f->cpp_type()) {
    case pb::FieldDescriptor::CPPTYPE_INT32:
      v = r->GetInt32(m, f);
      return true;
    case pb::FieldDescriptor::CPPTYPE_INT64:
      v = static_cast<double>(r->GetInt64(m, f));
      return true;
    case pb::FieldDescriptor::CPPTYPE_UINT64:
      v = static_cast<double>(r->GetUInt64(m, f));
      return true;
    case pb::FieldDescriptor::CPPTYPE_FLOAT:
      v = r->GetFloat(m, f);
      return true;
    case pb::FieldDescriptor::CPPTYPE_DOUBLE:
      v = r->GetDouble(m, f);
      return true;
    default:
      return false;
  }
}

void check_scalar(const pb::Message& m, const pb::FieldDescriptor* f, const std::string& path, Errors& errors) {
  const auto& o = f->options();
  double v = 0;
  if (as_number(m, f, v) && m.GetReflection()->HasField(m, f)) {
    const bool low = o.HasExtension(config::min) && !(v >= o.GetExtension(config::min));
    const bool high = o.HasExtension(config::max) && !(v <= o.GetExtension(config::max));
    if (low || high)
      errors.push_back(cat(path, " = ", v, " is out of range; legal: ", o.GetExtension(config::min), " to ",
                           o.GetExtension(config::max)));
  }
  if (o.HasExtension(config::one_of) && m.GetReflection()->HasField(m, f)) {
    const std::string value = m.GetReflection()->GetString(m, f);
    std::istringstream list(o.GetExtension(config::one_of));
    std::vector<std::string> legal;
    for (std::string item; std::getline(list, item, '|');) legal.push_back(item);
    if (std::find(legal.begin(), legal.end(), value) == legal.end())
      errors.push_back(cat(path, " = \"", value, "\" is not known; legal: ", join(legal, ", ")));
  }
}

// Ranges and required fields of a whole message tree, by the options in the schema.
void check_ranges(const pb::Message& m, const std::string& prefix, Errors& errors) {
  const pb::Descriptor* d = m.GetDescriptor();
  const pb::Reflection* r = m.GetReflection();
  for (int i = 0; i < d->field_count(); ++i) {
    const pb::FieldDescriptor* f = d->field(i);
    const std::string path = prefix.empty() ? f->name() : prefix + "." + f->name();
    if (f->message_type() != nullptr && f->is_repeated()) {
      for (int k = 0; k < r->FieldSize(m, f); ++k)
        check_ranges(r->GetRepeatedMessage(m, f, k), cat(path, ".", k), errors);
    } else if (f->message_type() != nullptr) {
      check_ranges(r->GetMessage(m, f), path, errors);
    } else if (!f->is_repeated()) {
      check_scalar(m, f, path, errors);
      if (f->options().GetExtension(config::required_here) && !r->HasField(m, f))
        errors.push_back(cat(path, " must be given"));
    }
  }
}

// The profiled steps must lie within the run.
void check_profile(const config::RunConfig& c, Errors& errors) {
  const auto& p = c.profile();
  if (p.folder().empty() || p.folder().find('/') != std::string::npos || p.folder().starts_with('.'))
    errors.push_back(
        cat("profile.folder = \"", p.folder(), "\" must be a plain name inside run.folder, for example profile"));
  for (const char* taken : {"checkpoints", "pictures", "config.textproto", "log.jsonl", "report.html"})
    if (p.folder() == taken)
      errors.push_back(cat("profile.folder = \"", taken, "\" is a name that the run folder uses itself; legal: any ",
                           "other plain name, for example profile"));
  if (p.steps() <= 0 || p.first_step() < -1) return;
  const int64_t all = c.train().steps(), first = p.first_step() >= 0 ? p.first_step() : kProfileWarmUpSteps;
  if (first + p.steps() > all)
    errors.push_back(cat(
        "profile.steps = ", p.steps(), " from step ", first, " on (counted from 0) end after the ",
        "last step of the run, train.steps = ", all, "; legal: ",
        p.steps() > all ? cat("profile.steps up to ", all) : cat("profile.first_step from 0 to ", all - p.steps())));
}

// Contradictions between values; what the preset gives counts like what the user wrote.
void check_together(const config::RunConfig& c, int ranks, Errors& errors) {
  if (c.run().device() == "cuda" && !kHasCuda)
    errors.push_back("run.device is \"cuda\", but this build has no CUDA backend; legal: cpu");
  if (c.data().sets_size() == 0) errors.push_back("data.sets is empty; give at least one { path: \"...\" weight: 1 }");
  check_profile(c, errors);
  const bool sizes_legal =
      std::none_of(errors.begin(), errors.end(), [](const std::string& e) { return e.starts_with("model."); });
  const auto collect = [&](const auto& check_one) {
    try {
      check_one();
    } catch (const ConfigError& e) {
      errors.push_back(e.what());
    }
  };
  const size_t before = errors.size();
  if (sizes_legal) collect([&] { make_model_config(c, 1 << 15); });
  if (sizes_legal && errors.size() == before) collect([&] { connector_texts(c); });
  if (sizes_legal && errors.size() == before) collect([&] { check_training_rules(c); });
  collect([&] { make_generate_options(c); });
  if (ranks > 0) collect([&] { check_mesh(make_mesh_shape(c, ranks), ranks); });
}

void fill_defaults(pb::Message* m) {
  const pb::Descriptor* d = m->GetDescriptor();
  const pb::Reflection* r = m->GetReflection();
  for (int i = 0; i < d->field_count(); ++i) {
    const pb::FieldDescriptor* f = d->field(i);
    if (f->is_repeated()) {
      for (int k = 0; f->message_type() != nullptr && k < r->FieldSize(*m, f); ++k)
        fill_defaults(r->MutableRepeatedMessage(m, f, k));
    } else if (f->message_type() != nullptr) {
      fill_defaults(r->MutableMessage(m, f));
    } else if (f->has_default_value() && !r->HasField(*m, f)) {
      switch (f->cpp_type()) {
        case pb::FieldDescriptor::CPPTYPE_INT32:
          r->SetInt32(m, f, f->default_value_int32());
          break;
        case pb::FieldDescriptor::CPPTYPE_INT64:
          r->SetInt64(m, f, f->default_value_int64());
          break;
        case pb::FieldDescriptor::CPPTYPE_UINT64:
          r->SetUInt64(m, f, f->default_value_uint64());
          break;
        case pb::FieldDescriptor::CPPTYPE_FLOAT:
          r->SetFloat(m, f, f->default_value_float());
          break;
        case pb::FieldDescriptor::CPPTYPE_DOUBLE:
          r->SetDouble(m, f, f->default_value_double());
          break;
        case pb::FieldDescriptor::CPPTYPE_BOOL:
          r->SetBool(m, f, f->default_value_bool());
          break;
        default:
          r->SetString(m, f, f->default_value_string());
          break;
      }
    }
  }
}

void reference(const pb::Descriptor* d, const std::string& prefix, std::string& out) {
  for (int i = 0; i < d->field_count(); ++i) {
    const pb::FieldDescriptor* f = d->field(i);
    const std::string path = prefix + f->name() + (f->is_repeated() ? ".N" : "");
    if (f->message_type() != nullptr) {
      reference(f->message_type(), path + ".", out);
      continue;
    }
    const auto& o = f->options();
    out += cat("  ", path, "  ", f->cpp_type_name());
    if (f->has_default_value()) {
      config::RunConfig scratch;
      out += cat("  default ", f->cpp_type() == pb::FieldDescriptor::CPPTYPE_STRING ? f->default_value_string()
                               : f->cpp_type() == pb::FieldDescriptor::CPPTYPE_BOOL
                                   ? (f->default_value_bool() ? "true" : "false")
                               : f->cpp_type() == pb::FieldDescriptor::CPPTYPE_DOUBLE ? cat(f->default_value_double())
                               : f->cpp_type() == pb::FieldDescriptor::CPPTYPE_FLOAT  ? cat(f->default_value_float())
                               : f->cpp_type() == pb::FieldDescriptor::CPPTYPE_UINT64 ? cat(f->default_value_uint64())
                               : f->cpp_type() == pb::FieldDescriptor::CPPTYPE_INT64  ? cat(f->default_value_int64())
                                                                                      : cat(f->default_value_int32()));
    }
    if (o.HasExtension(config::min))
      out += cat("  range ", o.GetExtension(config::min), " to ", o.GetExtension(config::max));
    if (o.HasExtension(config::one_of)) out += cat("  one of ", o.GetExtension(config::one_of));
    if (o.GetExtension(config::required_here)) out += "  must be given";
    out += "\n";
  }
}

}  // namespace

std::string nearest(const std::string& name, const std::vector<std::string>& legal) {
  std::string best;
  size_t best_distance = name.size() / 3 + 2;  // more edits than a third of the word is another word
  for (const auto& candidate : legal) {
    std::vector<size_t> row(candidate.size() + 1);
    for (size_t j = 0; j <= candidate.size(); ++j) row[j] = j;
    for (size_t i = 1; i <= name.size(); ++i) {
      size_t diagonal = row[0];
      row[0] = i;
      for (size_t j = 1; j <= candidate.size(); ++j) {
        const size_t up = row[j];
        row[j] = std::min({up + 1, row[j - 1] + 1, diagonal + (name[i - 1] != candidate[j - 1])});
        diagonal = up;
      }
    }
    if (row.back() < best_distance) best_distance = row.back(), best = candidate;
  }
  return best;
}

config::RunConfig parse_config(const std::string& text, const std::string& origin, const std::vector<std::string>& sets,
                               int ranks) {
  config::RunConfig c;
  Errors errors;
  parse_text(text, origin, c, errors);
  for (const auto& s : sets)
    if (const std::string error = apply_set(&c, s); !error.empty()) errors.push_back(error);
  check_ranges(c, "", errors);
  if (errors.empty()) fill_defaults(&c);  // else the sizes may not even make sense
  check_together(c, ranks, errors);
  if (!errors.empty())
    throw ConfigError(cat(errors.size(), errors.size() == 1 ? " error" : " errors", " in the configuration:\n  ",
                          join(errors, "\n  ")));
  resolve_model(c);
  return c;
}

config::RunConfig load_config(const std::string& path, const std::vector<std::string>& sets, int ranks) {
  std::ifstream in(path);
  check<ConfigError>(in.good(), "--config ", path,
                     ": the file cannot be opened; give a RunConfig text file such as examples/quickstart.textproto");
  std::ostringstream text;
  text << in.rdbuf();
  return parse_config(text.str(), path, sets, ranks);
}

std::string config_reference() {
  std::string out = "Fields of a run configuration (launcher/run_config.proto has the full comments):\n";
  reference(config::RunConfig::descriptor(), "", out);
  return out;
}

config::RunConfig read_saved(const std::string& text) {
  Collector ignored;
  pb::TextFormat::Parser parser;
  parser.RecordErrorsTo(&ignored);
  parser.AllowUnknownField(true);
  config::RunConfig saved;
  return parser.ParseFromString(text, &saved) ? saved : config::RunConfig();
}

config::RunConfig parse_saved_config(const std::string& text, const std::string& origin,
                                     const std::vector<std::string>& sets) {
  const config::RunConfig saved = read_saved(text);
  std::vector<std::string> all;
  if (!saved.data().has_frame_message()) all.push_back("data.frame_message=never");
  if (!saved.model().connector().tiling().has_on()) all.push_back("model.connector.tiling.on=false");
  all.push_back("checkpoint.allow_other_tokenizer=false");  // said of another one, which was the start
  all.insert(all.end(), sets.begin(), sets.end());
  return parse_config(text, origin, all);
}

std::string resolved_text(const config::RunConfig& c) {
  std::string out;
  pb::TextFormat::PrintToString(c, &out);
  return out;
}

}  // namespace tpo
