#include "launcher/report.h"

#include <algorithm>
#include <cmath>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <vector>

#include "core/error.h"
#include "launcher/run_files.h"

namespace tpo {

namespace {

struct Point {
  double x, y;
};
struct Curve {
  std::string name, colour;
  std::vector<Point> points;
};

std::string escape(const std::string& text) {
  std::string out;
  for (const char c : text)
    out += c == '<' ? "&lt;" : c == '>' ? "&gt;" : c == '&' ? "&amp;" : c == '"' ? "&quot;" : std::string(1, c);
  return out;
}

std::string short_number(double v) {
  std::ostringstream out;
  out.precision(3);
  out << v;
  return out.str();
}

// A line chart of 640 x 240 units; y from 0 or the smallest value to the largest.
std::string chart(const std::string& title, const std::vector<Curve>& curves) {
  constexpr double kWidth = 640, kHeight = 240, kLeft = 56, kBottom = 28, kTop = 8;
  double x0 = 1e300, x1 = -1e300, y0 = 0, y1 = -1e300;
  for (const auto& c : curves)
    for (const auto& p : c.points) {
      x0 = std::min(x0, p.x), x1 = std::max(x1, p.x);
      y0 = std::min(y0, p.y), y1 = std::max(y1, p.y);
    }
  if (x1 < x0) return "";
  if (x1 == x0) x1 = x0 + 1;
  if (y1 <= y0) y1 = y0 + 1;
  const auto px = [&](double x) { return kLeft + (x - x0) / (x1 - x0) * (kWidth - kLeft - 8); };
  const auto py = [&](double y) { return kTop + (y1 - y) / (y1 - y0) * (kHeight - kTop - kBottom); };
  std::ostringstream out;
  out << "<h2>" << escape(title) << "</h2><svg viewBox=\"0 0 " << kWidth << ' ' << kHeight << "\" role=\"img\">";
  for (int i = 0; i <= 4; ++i) {
    const double y = y0 + (y1 - y0) * i / 4;
    out << "<line x1=\"" << kLeft << "\" x2=\"" << kWidth - 8 << "\" y1=\"" << py(y) << "\" y2=\"" << py(y)
        << "\" stroke=\"#ddd\"/><text x=\"" << kLeft - 6 << "\" y=\"" << py(y) + 4 << "\" text-anchor=\"end\">"
        << short_number(y) << "</text>";
    const double x = x0 + (x1 - x0) * i / 4;
    out << "<text x=\"" << px(x) << "\" y=\"" << kHeight - 8 << "\" text-anchor=\"middle\">"
        << short_number(std::round(x)) << "</text>";
  }
  double label = kLeft + 12;
  for (const auto& c : curves) {
    if (c.points.empty()) continue;
    out << "<polyline fill=\"none\" stroke-width=\"1.5\" stroke=\"" << c.colour << "\" points=\"";
    for (const auto& p : c.points) out << px(p.x) << ',' << py(p.y) << ' ';
    out << "\"/><text x=\"" << label << "\" y=\"" << kTop + 12 << "\" fill=\"" << c.colour << "\">" << escape(c.name)
        << "</text>";
    label += 9.0 * static_cast<double>(c.name.size()) + 20;
  }
  out << "</svg>\n";
  return out.str();
}

Curve curve_of(const std::vector<std::string>& lines, const std::string& key, const std::string& name,
               const std::string& colour) {
  Curve c{name, colour, {}};
  for (const auto& line : lines) {
    double step, value;
    if (json_text(line, "kind") == "train" && json_number(line, "step", step) && json_number(line, key, value))
      c.points.push_back({step, value});
  }
  return c;
}

std::string evaluation_table(const std::vector<std::string>& lines) {
  std::string rows;
  for (const auto& line : lines) {
    if (json_text(line, "kind") != "eval") continue;
    rows += "<tr><td>" + escape(json_text(line, "dataset")) + "</td>";
    for (const char* key : {"step", "samples", "acc50", "mean_iou", "constant_acc50", "exact", "most_frequent"}) {
      double v;
      rows += "<td>" + (json_number(line, key, v) ? short_number(v) : std::string("-")) + "</td>";
    }
    rows += "</tr>\n";
  }
  if (rows.empty()) return "";
  return "<h2>Evaluation on held-out data</h2><table><tr><th>dataset</th><th>step</th><th>samples</th><th>Acc@0.5</th>"
         "<th>mean IoU</th><th>best constant box</th><th>exact answers</th><th>most frequent answer</th></tr>\n" +
         rows + "</table>\n";
}

// The newest overlap report.
std::string overlap_section(const std::vector<std::string>& lines) {
  std::string table;
  for (const auto& line : lines)
    if (json_text(line, "kind") == "overlap") table = json_text(line, "table");
  return table.empty() ? "" : "<h2>Communication</h2><pre>" + escape(table) + "</pre>\n";
}

std::string picture_section(const std::string& folder) {
  std::vector<std::string> names;
  const std::filesystem::path pictures = std::filesystem::path(folder) / "pictures";
  if (std::filesystem::is_directory(pictures))
    for (const auto& e : std::filesystem::directory_iterator(pictures))
      if (e.path().extension() == ".png") names.push_back(e.path().filename().string());
  if (names.empty()) return "";
  std::sort(names.begin(), names.end());
  std::string out = "<h2>Predictions</h2><p>Green: the label. Red: what the model gave.</p><div class=\"pictures\">";
  for (const auto& n : names) out += "<img src=\"pictures/" + escape(n) + "\" alt=\"" + escape(n) + "\">\n";
  return out + "</div>";
}

}  // namespace

std::string write_report(const std::string& folder) {
  std::ifstream in(folder + "/log.jsonl");
  check<DataError>(in.good(), folder,
                   "/log.jsonl cannot be opened; give the folder of a run, run.folder of its configuration");
  std::vector<std::string> lines;
  for (std::string line; std::getline(in, line);) lines.push_back(line);
  std::string page =
      "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>tpo_dist " + escape(folder) +
      "</title><style>body{font:15px sans-serif;max-width:60em;margin:2em auto;padding:0 "
      "1em}svg{width:100%;max-width:48em}"
      "svg text{font-size:11px}table{border-collapse:collapse}td,th{border:1px solid #ccc;padding:.3em "
      ".6em;text-align:right}"
      ".pictures img{width:16em;margin:.3em;border:1px solid #ccc;vertical-align:top}</style></head><body><h1>" +
      escape(folder) + "</h1>\n";
  page += evaluation_table(lines);
  page += chart("Loss", {curve_of(lines, "lm", "text (per answer token)", "#1565c0"),
                         curve_of(lines, "region", "region (per box)", "#c62828")});
  page += chart("Gradient norm before clipping", {curve_of(lines, "grad_norm", "norm", "#555")});
  page += chart("Tokens per second", {curve_of(lines, "tokens_per_s", "tokens/s", "#2e7d32")});
  page += overlap_section(lines);
  page += picture_section(folder);
  page += "</body></html>\n";
  const std::string path = folder + "/report.html";
  write_text(path, page);
  return path;
}

}  // namespace tpo
