#include "launcher/evaluator.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <tuple>
#include <utility>

#include "data/draw.h"
#include "launcher/run_files.h"
#include "model/metrics/text.h"

namespace tpo {

namespace {

// What one rank found out, as lines of text so that it can be gathered: B = box pair, A = answer pair.
struct Found {
  std::vector<Box> truth, given;
  std::vector<std::string> answers, expected;
  int64_t boxes_given = 0, too_long = 0;
};

void put(std::ostringstream& out, const Box& b) {
  for (float v : b) out << v << ' ';
}

std::string serialise(const Found& f) {
  std::ostringstream out;
  out.precision(9);
  out << f.boxes_given << ' ' << f.too_long << '\n';
  for (size_t i = 0; i < f.truth.size(); ++i) {
    out << "B ";
    put(out, f.truth[i]);
    put(out, f.given[i]);
    out << '\n';
  }
  for (size_t i = 0; i < f.answers.size(); ++i) out << "A " << f.answers[i] << '\t' << f.expected[i] << '\n';
  return out.str();
}

void merge(const std::string& text, Found& into) {
  std::istringstream in(text);
  std::string line;
  int64_t boxes_given = 0, too_long = 0;
  in >> boxes_given >> too_long;
  std::getline(in, line);  // the rest of the first line
  into.boxes_given += boxes_given;
  into.too_long += too_long;
  while (std::getline(in, line)) {
    if (line.starts_with("B ")) {
      std::istringstream values(line.substr(2));
      Box t{}, g{};
      for (float& v : t) values >> v;
      for (float& v : g) values >> v;
      into.truth.push_back(t);
      into.given.push_back(g);
    } else {
      const size_t tab = line.find('\t');
      into.answers.push_back(line.substr(2, tab - 2));
      into.expected.push_back(line.substr(tab + 1));
    }
  }
}

template <class T>
void sort_pairs(std::vector<T>& a, std::vector<T>& b) {
  std::vector<std::pair<T, T>> pairs;
  for (size_t i = 0; i < a.size(); ++i) pairs.emplace_back(std::move(a[i]), std::move(b[i]));
  std::sort(pairs.begin(), pairs.end());
  for (size_t i = 0; i < pairs.size(); ++i) std::tie(a[i], b[i]) = std::move(pairs[i]);
}

// An order that does not know which rank found what: sums of scores then have the same bits for any number of ranks.
void sort_pairs(Found& f) {
  sort_pairs(f.truth, f.given);
  sort_pairs(f.expected, f.answers);
}

std::string one_line(std::string text) {
  for (char& c : text)
    if (c == '\n' || c == '\t' || c == '\r') c = ' ';
  return text;
}

Box box_of(const data::Box& b) { return {b.x1(), b.y1(), b.x2(), b.y2()}; }

class SampleRun {
 public:
  SampleRun(const TpoModel& model, const Templates& templates, const CollateOptions& collate,
            const EvalOptions& options)
      : model_(model), templates_(templates), collate_(collate), options_(options) {}

  // Every assistant turn of the sample. Returns true and the boxes of its first region turn for drawing.
  bool run(const RawSample& raw, Found& found, std::vector<Box>& truth, std::vector<Box>& given, std::string& caption) {
    bool drawn = false;
    int user = -1;
    for (int t = 0; t < raw.sample.turns_size(); ++t) {
      const auto& turn = raw.sample.turns(t);
      if (turn.role() == data::Turn::USER) user = t;
      if (turn.role() != data::Turn::ASSISTANT || user < 0) continue;
      GenerateOptions g = options_.generate;
      g.key = g.key.with(raw.sample.id()).with(static_cast<uint64_t>(t));
      g.eos_id = templates_.tokenizer().eos();
      const auto prompt = templates_.encode_prompt_if_it_fits(raw.sample, user);
      if (!prompt) {
        ++found.too_long;
        continue;
      }
      const Generation out = generate(model_, make_prompt(raw, *prompt, collate_), g);
      if (turn.boxes_size() > 0) {
        const size_t before = found.truth.size();
        add_boxes(raw, turn, out, found);
        if (!drawn) {
          truth.assign(found.truth.begin() + static_cast<int64_t>(before), found.truth.end());
          given.clear();
          for (const auto& b : out.boxes) given.push_back(b.box);
          caption = without_media_marks(raw.sample.turns(user).text());
          drawn = true;
        }
      } else {
        found.answers.push_back(one_line(decode_written(templates_.tokenizer(), out.text)));
        found.expected.push_back(one_line(turn.text()));
      }
    }
    return drawn;
  }

 private:
  // Boxes pair up in order; one that the model did not give has no area.
  void add_boxes(const RawSample& raw, const data::Turn& turn, const Generation& out, Found& found) {
    for (int k = 0; k < turn.boxes_size(); ++k) {
      found.truth.push_back(box_of(raw.sample.boxes(turn.boxes(k))));
      const bool has = k < static_cast<int>(out.boxes.size());
      found.given.push_back(has ? out.boxes[static_cast<size_t>(k)].box : Box{0, 0, 0, 0});
      found.boxes_given += has;
    }
  }

  const TpoModel& model_;
  const Templates& templates_;
  const CollateOptions& collate_;
  const EvalOptions& options_;
};

EvalResult score(const std::string& dataset, int64_t samples, const Found& f) {
  EvalResult r;
  r.dataset = dataset;
  r.samples = samples;
  r.boxes = static_cast<int64_t>(f.truth.size());
  r.boxes_given = f.boxes_given;
  r.too_long = f.too_long;
  if (r.boxes > 0) {
    r.acc50 = box_accuracy(f.given, f.truth, 0.5);
    r.mean_iou = box_mean_iou(f.given, f.truth);
    const std::vector<Box> constant(f.truth.size(), best_constant_box(f.truth, 0.5));
    r.constant_acc50 = box_accuracy(constant, f.truth, 0.5);
  }
  r.answers = static_cast<int64_t>(f.expected.size());
  if (r.answers > 0) {
    r.exact = exact_match(f.answers, f.expected);
    const std::vector<std::string> constant(f.expected.size(), most_frequent_answer(f.expected));
    r.most_frequent = exact_match(constant, f.expected);
  }
  return r;
}

}  // namespace

Batch make_prompt(const RawSample& raw, const TokenizedSample& prompt, const CollateOptions& collate) {
  return upload(collate_prompt(raw, prompt, collate));
}

std::vector<std::byte> draw_boxes(const RawSample& raw, const std::vector<Box>& truth, const std::vector<Box>& given,
                                  const std::string& caption) {
  Image picture = decode_image(raw.frame(0, 0), raw.sample.id());
  const int least = 256;  // small pictures are enlarged so that lines and text can be read
  const int factor = std::max(1, (least + picture.width - 1) / picture.width);
  picture = resize(picture, picture.width * factor, picture.height * factor);
  const auto lines = wrap_text(caption, std::max(8, picture.width / kGlyphWidth - 1));
  const int text_height = static_cast<int>(lines.size()) * (kGlyphHeight + 2) + 4;
  Image out = blank(picture.width, picture.height + text_height, {255, 255, 255});
  paste(out, picture, 0, 0);
  const auto draw = [&](const std::vector<Box>& boxes, Colour colour) {
    for (const Box& b : boxes)
      draw_box(out, b[0] * static_cast<float>(picture.width), b[1] * static_cast<float>(picture.height),
               b[2] * static_cast<float>(picture.width), b[3] * static_cast<float>(picture.height), colour, 2);
  };
  draw(truth, {0, 200, 0});
  draw(given, {230, 0, 0});
  for (size_t i = 0; i < lines.size(); ++i)
    draw_text(out, 2, picture.height + 3 + static_cast<int>(i) * (kGlyphHeight + 2), lines[i], {0, 0, 0});
  return encode_png(out);
}

EvalResult evaluate(const TpoModel& model, const DatasetFolder& folder, const Templates& templates,
                    const CollateOptions& collate, const EvalOptions& options, ProcessGroup& world) {
  const int64_t samples = std::min(options.samples, folder.size());
  if (options.pictures > 0) std::filesystem::create_directories(options.picture_folder);
  SampleRun runner(model, templates, collate, options);
  Found mine;
  for (int64_t i = world.rank(); i < samples; i += world.size()) {
    const RawSample raw = folder.read(i);
    std::vector<Box> truth, given;
    std::string caption;
    if (runner.run(raw, mine, truth, given, caption) && i < options.pictures && raw.sample.media_size() > 0)
      write_bytes(cat(options.picture_folder, "/", folder.name(), "_", i, ".png"),
                  draw_boxes(raw, truth, given, caption));
  }
  const std::string text = serialise(mine);
  Found all;
  for (const auto& part : world.all_gather_bytes(std::as_bytes(std::span(text.data(), text.size())), "evaluation"))
    merge(std::string(reinterpret_cast<const char*>(part.data()), part.size()), all);
  sort_pairs(all);
  return score(folder.name(), samples, all);
}

std::string describe(const EvalResult& r) {
  std::ostringstream out;
  out.precision(3);
  out << std::fixed << r.dataset << " (" << r.samples << " samples):";
  if (r.boxes > 0)
    out << " Acc@0.5 " << r.acc50 << ", mean IoU " << r.mean_iou << " over " << r.boxes << " boxes, of which "
        << r.boxes_given << " were given; best constant box Acc@0.5 " << r.constant_acc50 << (r.answers > 0 ? ";" : "");
  if (r.answers > 0)
    out << " exact answers " << r.exact << " of " << r.answers << "; most frequent answer " << r.most_frequent;
  if (r.too_long > 0) out << "; " << r.too_long << " questions are longer than data.max_tokens and were not asked";
  return out.str();
}

}  // namespace tpo
