#include "launcher/run_files.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "core/error.h"

namespace tpo {

void write_bytes(const std::string& path, std::span<const std::byte> bytes) {
  const std::string temporary = path + ".tmp";
  const auto fail = [&](const char* what) {
    const int reason = errno;
    ::unlink(temporary.c_str());
    throw IoError(cat("cannot ", what, " ", path, " (", bytes.size(), " bytes): ", std::strerror(reason)));
  };
  const int fd = ::open(temporary.c_str(), O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
  if (fd < 0) fail("create");
  for (size_t done = 0; done < bytes.size();) {
    const ssize_t n = ::write(fd, bytes.data() + done, bytes.size() - done);
    if (n < 0 && errno == EINTR) continue;
    if (n <= 0) {
      ::close(fd);
      fail("write");
    }
    done += static_cast<size_t>(n);
  }
  if (::close(fd) != 0) fail("close");
  if (::rename(temporary.c_str(), path.c_str()) != 0) fail("rename");
}

void write_text(const std::string& path, const std::string& text) {
  write_bytes(path, std::as_bytes(std::span(text.data(), text.size())));
}

std::string json_string(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      char escaped[8];
      std::snprintf(escaped, sizeof escaped, "\\u%04x", c);
      out += escaped;
    } else {
      out += c;
    }
  }
  return out + '"';
}

void JsonLine::key(const std::string& key) { body_ += cat(body_.empty() ? "" : ",", "\"", key, "\":"); }

JsonLine& JsonLine::number(const std::string& name, double value) {
  key(name);
  char text[40];
  std::snprintf(text, sizeof text, "%.9g", value);
  body_ += std::isfinite(value) ? text : "null";
  return *this;
}

JsonLine& JsonLine::integer(const std::string& name, int64_t value) {
  key(name);
  body_ += std::to_string(value);
  return *this;
}

JsonLine& JsonLine::raw(const std::string& name, const std::string& json) {
  key(name);
  body_ += json;
  return *this;
}

JsonLine& JsonLine::text(const std::string& name, const std::string& value) { return raw(name, json_string(value)); }

RunLog::RunLog(const std::string& folder, int64_t steps_done) : path_(folder + "/log.jsonl") {
  std::string kept;
  if (std::ifstream in(path_); in.good()) {
    for (std::string line; std::getline(in, line);) {
      double step = 0;
      // A line without its closing brace was cut by a kill.
      if (line.ends_with('}') && json_number(line, "step", step) && step <= static_cast<double>(steps_done))
        kept += line + "\n";
    }
    write_text(path_, kept);
  }
  out_.open(path_, std::ios::app);
  check<IoError>(out_.good(), "cannot open ", path_, " for appending: ", std::strerror(errno));
}

void RunLog::write(const JsonLine& line) {
  out_ << line.str() << std::endl;
  check<IoError>(out_.good(), "cannot append to ", path_, ": ", std::strerror(errno));
}

bool json_number(const std::string& line, const std::string& key, double& value) {
  const size_t at = line.find("\"" + key + "\":");
  if (at == std::string::npos) return false;
  const char* begin = line.c_str() + at + key.size() + 3;
  char* end = nullptr;
  value = std::strtod(begin, &end);
  return end != begin;
}

std::string json_text(const std::string& line, const std::string& key) {
  const std::string mark = "\"" + key + "\":\"";
  size_t at = line.find(mark);
  if (at == std::string::npos) return {};
  std::string out;
  for (at += mark.size(); at < line.size() && line[at] != '"'; ++at) {
    if (line[at] != '\\' || at + 1 >= line.size()) {
      out += line[at];
    } else if (line[++at] == 'u' && at + 4 < line.size()) {
      out += static_cast<char>(std::strtol(line.substr(at + 1, 4).c_str(), nullptr, 16));
      at += 4;
    } else {
      out += line[at];
    }
  }
  return out;
}

}  // namespace tpo
