// tpo_dist data inspect, verify: looking at datasets that exist.
#include <algorithm>
#include <iostream>

#include "core/error.h"
#include "data/dataset.h"
#include "data/decode/image.h"
#include "data/draw.h"
#include "launcher/build.h"
#include "launcher/commands/args.h"
#include "launcher/commands/data_verbs.h"
#include "launcher/exit_codes.h"

namespace tpo {

namespace {

const CommandHelp kInspectHelp{"data inspect",
                               "Prints samples as text and draws their pictures with boxes and phrases. With a "
                               "configuration also what its model is given: tokens, slots, tiles, messages.",
                               "<dataset folder>",
                               "tpo_dist data inspect data/world/region-train --first 0 --count 6 --draw samples.png",
                               {{"first", "number of the first sample", "0", Flag::Kind::kText},
                                {"count", "how many samples", "3", Flag::Kind::kText},
                                {"id", "the sample of this id instead", "", Flag::Kind::kText},
                                {"config", "run configuration", "", Flag::Kind::kText},
                                {"set", "override, path=value", "", Flag::Kind::kList},
                                {"draw", "PNG file: one panel per picture", "", Flag::Kind::kText},
                                {"columns", "panels in a row", "4", Flag::Kind::kText},
                                {"width", "width of a panel in pixels", "320", Flag::Kind::kText}}};

const char* role_name(data::Turn::Role role) {
  return role == data::Turn::USER ? "user" : role == data::Turn::ASSISTANT ? "assistant" : "system";
}

void print_box(const char* head, int i, const data::Box& b, const data::Sample& sample) {
  const double w = sample.media(b.media()).width(), h = sample.media(b.media()).height();
  std::cout << "  " << head << ' ' << i << ": [" << b.x1() * w << ", " << b.y1() * h << ", " << b.x2() * w << ", "
            << b.y2() * h << "] px of media " << b.media() << " frame " << b.frame() << (b.phrase().empty() ? "" : ", ")
            << b.phrase() << "\n";
}

void print_sample(int64_t number, const RawSample& raw) {
  const data::Sample& s = raw.sample;
  std::cout << "sample " << number << " id " << s.id() << "\n";
  for (int m = 0; m < s.media_size(); ++m) {
    const data::Media& media = s.media(m);
    std::cout << "  media " << m << ": " << data::Media::Kind_Name(media.kind()) << ' ' << media.width() << " x "
              << media.height() << ", " << media.frame_bytes_size() << " frame(s), " << media.source() << "\n";
  }
  for (const data::Turn& turn : s.turns()) {
    std::cout << "  " << role_name(turn.role()) << ": " << turn.text();
    for (int b : turn.boxes()) std::cout << " (box " << b << ")";
    std::cout << "\n";
  }
  for (int i = 0; i < s.boxes_size(); ++i) print_box("box", i, s.boxes(i), s);
  for (int i = 0; i < s.spans_size(); ++i) {
    std::cout << "  span " << i << ": " << s.spans(i).start_s() << " to " << s.spans(i).end_s() << " s\n";
  }
  for (int i = 0; i < s.tracks_size(); ++i) {
    std::cout << "  track " << i << ": " << s.tracks(i).boxes_size() << " boxes, " << s.tracks(i).masks_size()
              << " masks, " << s.tracks(i).phrase() << "\n";
  }
  if (s.masks_size() > 0) std::cout << "  masks: " << s.masks_size() << "\n";
}

// The text that the model is given, slots as {their number}.
std::string as_text(const TokenizedSample& t, const Tokenizer& tokenizer) {
  std::string text;
  std::vector<int32_t> run;
  size_t slots = 0;  // of visual_rows, passed
  for (size_t i = 0; i < t.tokens.size();) {
    const size_t first = slots;
    while (slots < t.visual_rows.size() && t.visual_rows[slots] == static_cast<int32_t>(i)) ++slots, ++i;
    if (slots > first) text += cat(decode_with_task_tokens(tokenizer, run), '{', slots - first, '}'), run.clear();
    if (i < t.tokens.size() && slots == first) run.push_back(t.tokens[i++]);
  }
  return text + decode_with_task_tokens(tokenizer, run);
}

// What the templates of a configuration make of it.
void print_encoded(const data::Sample& s, const Templates& templates) {
  TokenizedSample t;
  try {
    t = templates.encode(s);
  } catch (const DataError& e) {
    std::cout << "  not for this configuration: " << e.what() << "\n";
    return;
  }
  std::cout << "  encoded: " << t.tokens.size() << " tokens, " << t.loss_tokens << " labels, " << t.visual_rows.size()
            << " slots of " << t.views << " view(s)\n";
  for (int m = 0; m < s.media_size(); ++m) {
    const data::Media& media = s.media(m);
    if (const auto& tiling = templates.options().tiling; tiling && media.kind() != data::Media::JPEG_FRAMES) {
      const TileLayout tiles = tiling->layout({media.width(), media.height()});
      std::cout << "  tiles of media " << m << ": " << tiles.grid.columns << " x " << tiles.grid.rows << ", "
                << tiles.slots() << " slots" << (tiles.resampled() ? ", resampled" : "") << "\n";
    }
    if (t.connector_texts.empty()) continue;
    const std::vector<int32_t>& beside = t.connector_texts[static_cast<size_t>(m)];
    std::cout << "  beside media " << m << ": " << beside.size() << " tokens, "
              << templates.connector_tokenizer()->decode(beside) << "\n";
  }
  std::cout << "  given: " << as_text(t, templates.tokenizer()) << "\n";
}

// Shrinks with the antialiased filter, enlarges by whole factors with sharp pixels, so that small pictures can be
// judged.
Image fit_width(const Image& image, int width) {
  if (image.width >= width) {
    return resize(image, width, std::max(1, static_cast<int>(int64_t{image.height} * width / image.width)));
  }
  const int k = width / image.width;
  Image out = blank(image.width * k, image.height * k, {0, 0, 0});
  for (int y = 0; y < out.height; ++y) {
    for (int x = 0; x < out.width; ++x) {
      const uint8_t* p = &image.rgb[3 * (static_cast<size_t>(y / k) * image.width + x / k)];
      fill_rect(out, x, y, x + 1, y + 1, {p[0], p[1], p[2]});
    }
  }
  return out;
}

// First frame of medium `m` with the boxes of that frame, the sample's text below.
Image panel(const RawSample& raw, int m, int width) {
  const data::Sample& s = raw.sample;
  const Image picture = fit_width(decode_image(raw.frame(m, 0), s.id()), width);
  std::vector<std::string> lines = wrap_text(s.id(), width / kGlyphWidth);
  for (const data::Turn& turn : s.turns()) {
    const std::string head = turn.role() == data::Turn::USER ? "> " : "";
    for (const std::string& line : wrap_text(head + turn.text(), width / kGlyphWidth)) lines.push_back(line);
  }
  constexpr size_t kLines = 14;
  if (lines.size() > kLines) {
    lines.resize(kLines);
    lines.back() = "...";
  }
  Image out = blank(width, picture.height + 4 + static_cast<int>(lines.size()) * (kGlyphHeight + 1), {255, 255, 255});
  Image drawn = picture;
  for (int pass = 0; pass < 2; ++pass) {  // labels above all outlines
    for (int i = 0; i < s.boxes_size(); ++i) {
      const data::Box& b = s.boxes(i);
      if (b.media() != m || b.frame() != 0) continue;
      const double x1 = b.x1() * picture.width, y1 = b.y1() * picture.height;
      if (pass == 0) {
        draw_box(drawn, x1, y1, b.x2() * picture.width, b.y2() * picture.height, draw_colour(i), 2);
      } else {
        const auto room = static_cast<size_t>(picture.width / kGlyphWidth);
        const std::string& phrase = b.phrase();
        const std::string label = phrase.size() < room ? phrase : phrase.substr(0, room - 4) + "...";
        draw_label(drawn, static_cast<int>(x1), static_cast<int>(y1) - kGlyphHeight - 2, label, draw_colour(i));
      }
    }
  }
  paste(out, drawn, 0, 0);
  for (size_t i = 0; i < lines.size(); ++i) {
    draw_text(out, 1, picture.height + 3 + static_cast<int>(i) * (kGlyphHeight + 1), lines[i], {0, 0, 0});
  }
  return out;
}

int64_t number_of(const DatasetFolder& dataset, const std::string& id) {
  for (int64_t i = 0; i < dataset.size(); ++i) {
    if (dataset.read(i).sample.id() == id) return i;
  }
  throw DataError(cat(dataset.folder(), " has no sample of id ", id));
}

}  // namespace

int data_inspect(std::span<const std::string> words) {
  const Args args(kInspectHelp, words);
  if (args.help()) {
    std::cout << args.usage();
    return kExitDone;
  }
  const DatasetFolder dataset(args.words(1)[0]);
  const bool by_id = args.given("id");
  const int64_t first = by_id ? number_of(dataset, args.text("id")) : args.integer("first", 0, dataset.size() - 1);
  const int64_t count = by_id ? 1 : args.integer("count", 1, 1 << 20);
  const int width = static_cast<int>(args.integer("width", 64, 4096));
  const int columns = static_cast<int>(args.integer("columns", 1, 64));
  std::cout << dataset.folder() << ": dataset " << dataset.name() << ", task " << dataset.task() << ", "
            << dataset.size() << " samples in " << dataset.manifest().shards_size() << " shard(s), made by "
            << dataset.manifest().source() << "\n";
  std::unique_ptr<Tokenizer> tokenizer;
  std::unique_ptr<Templates> templates;
  if (args.given("config")) {
    const config::RunConfig config = load_config(args.text("config"), args.list("set"));
    tokenizer = make_tokenizer(config);
    templates = make_templates(config, *tokenizer);
  }
  std::vector<Image> panels;
  for (int64_t i = first; i < std::min(first + count, dataset.size()); ++i) {
    const RawSample raw = dataset.read(i);
    print_sample(i, raw);
    if (templates) print_encoded(raw.sample, *templates);
    if (!args.given("draw")) continue;
    for (int m = 0; m < raw.sample.media_size(); ++m) panels.push_back(panel(raw, m, width));
  }
  if (args.given("draw")) {
    check<DataError>(!panels.empty(), "data inspect: these samples have no pictures to draw");
    replace_file(args.text("draw"), encode_png(contact_sheet(panels, columns)));
    std::cout << "drawn to " << args.text("draw") << "\n";
  }
  return kExitDone;
}

int data_verify(std::span<const std::string> words) {
  const Args args({"data verify",
                   "Checks the checksums of all shards and every record, and decodes every picture.",
                   "<dataset folder> ...",
                   "tpo_dist data verify data/world/region-train",
                   {{"headers_only", "read the size of each picture instead of decoding it", "", Flag::Kind::kSwitch}}},
                  words);
  if (args.help()) {
    std::cout << args.usage();
    return kExitDone;
  }
  check<ConfigError>(!args.words().empty(), "data verify: name one or more dataset folders");
  int64_t samples = 0, pictures = 0, problems = 0;
  for (const std::string& folder : args.words()) {
    const DatasetFolder dataset(folder);
    std::vector<std::string> found = dataset.verify(progress_printer(folder));
    samples += dataset.size();
    for (int64_t i = 0; !args.is_on("headers_only") && i < dataset.size(); ++i) {
      RawSample raw;
      try {
        raw = dataset.read(i);
      } catch (const Error&) {
        continue;  // verify() has named it
      }
      for (int m = 0; m < raw.sample.media_size(); ++m) {
        for (int f = 0; f < raw.sample.media(m).frame_bytes_size(); ++f, ++pictures) {
          try {
            decode_image(raw.frame(m, f), cat(folder, " sample ", raw.sample.id(), " media ", m, " frame ", f));
          } catch (const DataError& e) {
            found.push_back(e.what());
          }
        }
      }
    }
    for (const std::string& line : found) std::cout << folder << ": " << line << "\n";
    problems += static_cast<int64_t>(found.size());
  }
  std::cout << (problems == 0 ? "verified: " : "DAMAGED: ") << samples << " samples, " << pictures
            << " pictures decoded, " << problems << " problem(s)\n";
  return problems == 0 ? kExitDone : kExitFixData;
}

}  // namespace tpo
