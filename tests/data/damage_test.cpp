// Random damage to every format that is read: truncations, flipped bits, overwritten runs. Only typed errors may come
// out, never a crash or another exception; under sanitizers this is the fuzz test of the folder. Seeds are fixed, so a
// failure repeats.
#include <google/protobuf/stubs/logging.h>

#include <functional>

#include "data/h5_shard.h"
#include "data/length_index.h"
#include "tests/data/data_fixture.h"
#include "tests/data/small_tokenizer.h"

namespace tpo {
namespace {

std::string damaged(const std::string& good, uint64_t seed) {
  const RngKey key(seed);
  std::string bad = good;
  const auto pick = [&](uint64_t counter, uint64_t n) { return uniform_below(key, counter, n); };
  switch (seed % 3) {
    case 0:
      bad.resize(pick(0, bad.size()));
      break;
    case 1:
      for (uint64_t k = 0; k <= pick(1, 4); ++k)
        bad[pick(2 + k, bad.size())] ^= static_cast<char>(1 << pick(20 + k, 8));
      break;
    default: {
      const uint64_t at = pick(40, bad.size()), n = std::min<uint64_t>(1 + pick(41, 24), bad.size() - at);
      for (uint64_t k = 0; k < n; ++k) bad[at + k] = static_cast<char>(pick(42 + k, 256));
    }
  }
  return bad;
}

// Runs read(damaged) `times` times; returns how often a typed error came out.
int errors_of(const std::string& good, int times, const std::function<void(const std::string&)>& read) {
  int errors = 0;
  for (int i = 0; i < times; ++i) {
    try {
      read(damaged(good, static_cast<uint64_t>(i)));
    } catch (const Error&) {
      ++errors;
    } catch (const std::exception& e) {
      ADD_FAILURE() << "damage " << i << ": not one of our errors: " << e.what();
    }
  }
  return errors;
}

TEST(Damage, pictures) {
  const Image picture = testing::make_picture(61, 47, 5);
  const std::string jpeg = testing::text_of(encode_jpeg(picture)), png = testing::text_of(encode_png(picture));
  const auto read = [](const std::string& bytes) {
    image_size(testing::bytes_of(bytes), "x");
    decode_image(testing::bytes_of(bytes), "x");
  };
  EXPECT_GT(errors_of(jpeg, 600, read), 150);  // flipped bits of a JPEG's pixels are legal pictures
  EXPECT_GT(errors_of(png, 600, read), 550);   // PNG has checksums
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

}  // namespace
}  // namespace tpo
