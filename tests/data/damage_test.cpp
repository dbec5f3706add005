// Random damage to every format that is read: truncations, flipped bits, overwritten runs. Only typed errors may come
// out, never a crash or another exception; under sanitizers this is the fuzz test of the folder. Seeds are fixed, so a
// failure repeats. TPO_FUZZ=1000 multiplies the runs, for a long search by hand:
//   TPO_FUZZ=1000 build/tests/data/data_tests --gtest_filter='Damage.*'
#include <google/protobuf/stubs/logging.h>

#include <cstdlib>
#include <functional>

#include "data/h5_shard.h"
#include "data/import/json.h"
#include "data/length_index.h"
#include "data/tokenizer/byte_bpe.h"
#include "data/tokenizer/load_tokenizer.h"
#include "data/tokenizer/wordpiece.h"
#include "tests/data/data_fixture.h"
#include "tests/data/small_tokenizer.h"

namespace tpo {
namespace {

std::string damaged(const std::string& good, uint64_t seed) {
  const RngKey key(seed);
  std::string bad = good;
  const auto pick = [&](uint64_t counter, uint64_t n) { return uniform_below(key, counter, n); };
  switch (seed % 4) {
    case 0:
      bad.resize(pick(0, bad.size()));
      break;
    case 1:
      for (uint64_t k = 0; k <= pick(1, 4); ++k)
        bad[pick(2 + k, bad.size())] ^= static_cast<char>(1 << pick(20 + k, 8));
      break;
    case 2: {  // a piece stands in another place, which text formats may take for well-formed
      const uint64_t from = pick(50, bad.size()), to = pick(51, bad.size());
      bad.insert(to, good.substr(from, 1 + pick(52, 40)));
      if (pick(53, 2) == 0) bad.erase(pick(54, bad.size()), 1 + pick(55, 40));
      break;
    }
    default: {
      const uint64_t at = pick(40, bad.size()), n = std::min<uint64_t>(1 + pick(41, 24), bad.size() - at);
      for (uint64_t k = 0; k < n; ++k) bad[at + k] = static_cast<char>(pick(42 + k, 256));
    }
  }
  return bad;
}

// Runs read(damaged) `times` times, or a multiple; returns how often of `times` a typed error came out.
int errors_of(const std::string& good, int times, const std::function<void(const std::string&)>& read) {
  static const int kMore = std::getenv("TPO_FUZZ") != nullptr ? std::max(1, std::atoi(std::getenv("TPO_FUZZ"))) : 1;
  int errors = 0;
  for (int i = 0; i < times * kMore; ++i) {
    try {
      read(damaged(good, static_cast<uint64_t>(i)));
    } catch (const Error&) {
      ++errors;
    } catch (const std::exception& e) {
      ADD_FAILURE() << "damage " << i << ": not one of our errors: " << e.what();
    }
  }
  return errors / kMore;
}

TEST(Damage, pictures) {
  const Image picture = testing::make_picture(61, 47, 5);
  const std::string jpeg = testing::text_of(encode_jpeg(picture)), png = testing::text_of(encode_png(picture));
  const auto read = [](const std::string& bytes) {
    image_size(testing::bytes_of(bytes), "x");
    decode_image(testing::bytes_of(bytes), "x");
  };
  EXPECT_GT(errors_of(jpeg, 600, read), 150);  // flipped bits of a JPEG's pixels are legal pictures
  EXPECT_GT(errors_of(png, 600, read), 540);   // PNG has checksums; some pieces are put onto themselves
}

TEST(Damage, shards_never_return_wrong_bytes) {
  const testing::ScratchFolder dir;
  ShardWriter w(dir / "s.h5");
  std::vector<std::string> want;
  for (int i = 0; i < 6; ++i) {
    want.push_back(std::string(static_cast<size_t>(50 + 31 * i), static_cast<char>('a' + i)));
    w.add(testing::bytes_of(want.back()), testing::bytes_of(want.back() + "media"));
  }
  w.finish();
  const int errors = errors_of(read_file(dir / "s.h5"), 600, [&](const std::string& bytes) {
    testing::write_text(dir / "bad.h5", bytes);
    const ShardReader r(dir / "bad.h5");
    for (int64_t i = 0; i < r.size(); ++i) {
      const Record record = r.read(i);
      const std::string text = testing::text_of(record.sample.view());
      ASSERT_EQ(text, want[static_cast<size_t>(i)]);
      ASSERT_EQ(testing::text_of(record.media.view()), text + "media");
    }
  });
  EXPECT_GT(errors, 300);  // damage to gaps is harmless here and found by the whole-file checksum
}

TEST(Damage, manifests_and_sample_messages) {
  const google::protobuf::LogSilencer silence;  // it reports broken UTF-8 by printing
  const testing::ScratchFolder dir;
  testing::write_dataset(dir / "d", {testing::region_sample("a", 1)});
  const std::string path = dir / "d/manifest.textproto";
  EXPECT_GT(errors_of(read_file(path), 300,
                      [&](const std::string& bytes) {
                        testing::write_text(path, bytes);
                        DatasetFolder(dir / "d").read(0);
                      }),
            150);
  const auto tok = testing::small_tokenizer();
  const Templates templates(*tok, {.max_tokens = 128, .image_slots = 4});
  const auto p = testing::region_sample("a", 1);
  errors_of(p.sample.SerializeAsString(), 600, [&](const std::string& bytes) {
    data::Sample s;
    if (!s.ParseFromString(bytes)) throw DataError("not a message");
    check_sample(s, p.media.size());
    templates.encode(s);
  });
}

TEST(Damage, tokenizer_models) {
  const std::string good = train_sentencepiece(testing::training_lines(), {.vocab_size = 320});
  errors_of(good, 200,
            [](const std::string& bytes) { SentencePieceTokenizer::from_bytes(bytes, "x")->encode("Where is it?"); });
}

// Every file that load_tokenizer() reads. What still loads must encode and decode any bytes.
TEST(Damage, tokenizer_files) {
  const std::string fixtures = std::string(TPO_SOURCE_DIR) + "/tests/data/fixtures/tokenizers/";
  // The first 300 entries of a real file's parts, so that damage hits every rule and not one of a thousand merges.
  const std::string whole = read_file(fixtures + "qwen2.json");
  const size_t vocab = whole.find("\"vocab\":") + 8, merges = whole.find(",\"merges\"");
  const auto use = [](const Tokenizer& t, const std::string& text) {
    const auto ids = t.encode_with_special(text);
    for (int32_t id : ids) ASSERT_TRUE(id >= 0 && id < t.vocab_size() + 7);
    decode_with_task_tokens(t, ids);
  };
  const auto bpe = [&](ByteBpeModel model, const std::string& text) {
    if (model.added.empty()) model.added = {{.text = "<e>", .id = 5000}};
    model.eos = model.added[0].text;
    use(ByteBpeTokenizer(std::move(model)), text);
  };
  const auto json = [&](const std::string& bytes) { bpe(read_tokenizer_json(bytes, "x"), bytes.substr(0, 300)); };
  EXPECT_GT(errors_of(whole, 400, json), 150);
  const std::string head = whole.substr(0, vocab), tail = whole.substr(merges);
  EXPECT_GT(errors_of(head, 400, [&](const std::string& h) { json(h + whole.substr(vocab)); }), 150);
  EXPECT_GT(errors_of("!\" \u0120 t\nh e\n\u0120t he\n", 400,
                      [&](const std::string& lines) {
                        bpe(read_vocab_and_merges(whole.substr(vocab, merges - vocab), lines, "x"), lines);
                      }),
            150);
  EXPECT_GT(errors_of("YWE= 0\nYWFh 1\nYg== 2\n", 400,
                      [&](const std::string& lines) { bpe(read_tiktoken(lines, "x"), lines); }),
            150);
  const std::string words = "[PAD]\n[UNK]\n[CLS]\n[SEP]\nthe\ncup\n##s\n\u6771\n";
  errors_of(words, 400, [&](const std::string& v) { use(WordPieceTokenizer(v, "x"), v + words); });
  errors_of(
      R"([{"id":9,"content":"<a>","lstrip":true},{"id":10,"content":"b","single_word":true}])", 400,
      [&](const std::string& a) { use(WordPieceTokenizer(words, "x", read_added_tokens(Json::parse(a, "x"))), a); });
}

// Any bytes may be asked of any tokenizer.
TEST(Damage, texts) {
  const std::string fixtures = std::string(TPO_SOURCE_DIR) + "/tests/data/fixtures/tokenizers/";
  const auto qwen = load_tokenizer(fixtures + "qwen2.json"), gpt2 = load_tokenizer(fixtures + "gpt2.json");
  const auto piece = testing::small_tokenizer();
  const WordPieceTokenizer words("[UNK]\n[CLS]\n[SEP]\nthe\n##s\n", "x");
  const std::string text =
      "It's e\u0301lan \u6771\u4eac<|im_end|> \xf0\x9f\x91\xa9\u200d 12\r\n\t  <boxes>\u0323\u0301!? lstrip!";
  errors_of(text, 600, [&](const std::string& bytes) {
    for (const Tokenizer* t : std::initializer_list<const Tokenizer*>{qwen.get(), gpt2.get(), piece.get(), &words}) {
      decode_with_task_tokens(*t, t->encode_with_special(bytes));
      t->encode(bytes);
    }
    ASSERT_EQ(gpt2->decode(gpt2->encode(bytes)), bytes);  // no normaliser: every byte comes back
  });
}

}  // namespace
}  // namespace tpo
