#include <sys/resource.h>
#include <sys/wait.h>

#include <csignal>
#include <thread>

#include "data/h5_file.h"
#include "data/h5_shard.h"
#include "tests/data/data_fixture.h"

namespace tpo {
namespace {

using testing::bytes_of;
using testing::message_of;
using testing::text_of;

std::string payload(int i) {
  const size_t n = static_cast<size_t>(i) * 37 % 700;
  std::string s(n, '\0');
  for (size_t k = 0; k < n; ++k) s[k] = static_cast<char>(philox(RngKey(5).with(i), k)[0]);
  return s;
}

std::string write_shard(const std::string& path, int n) {
  ShardWriter w(path);
  for (int i = 0; i < n; ++i) w.add(bytes_of(payload(i)), bytes_of(payload(i + 1000)));
  w.finish();
  return path;
}

TEST(Shard, returns_what_was_written_for_sizes_zero_one_and_many) {
  const testing::ScratchFolder dir;
  for (int n : {0, 1, 257}) {
    const ShardReader r(write_shard(dir / cat("s", n, ".h5"), n));
    ASSERT_EQ(r.size(), n);
    Record record;
    for (int i = n - 1; i >= 0; --i) {
      r.read(i, record);
      EXPECT_EQ(text_of(record.sample.view()), payload(i));
      EXPECT_EQ(text_of(record.media.view()), payload(i + 1000));
    }
    EXPECT_HAS(message_of<DataError>([&] { r.read(n); }), cat("not ", n));
  }
}

TEST(Shard, records_are_aligned_in_the_file) {
  const testing::ScratchFolder dir;
  const std::string path = write_shard(dir / "s.h5", 20);
  const H5Contents h5 = h5_inspect(path);
  const InputFile file(path);
  for (const char* field : {"sample", "media"}) {
    const H5Dataset& blob = h5.datasets.at(std::string(field) + "_bytes");
    const H5Dataset& index = h5.datasets.at(std::string(field) + "_index");
    EXPECT_EQ(blob.offset % 64, 0u);
    std::vector<uint64_t> table(60);
    file.read(index.offset, std::as_writable_bytes(std::span(table)));
    for (int i = 0; i < 20; ++i) EXPECT_EQ((blob.offset + table[3 * i]) % 64, 0u);
  }
}

TEST(Shard, reads_from_several_threads) {
  const testing::ScratchFolder dir;
  const ShardReader r(write_shard(dir / "s.h5", 100));
  std::vector<std::thread> threads;
  std::atomic<int> good = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      Record record;
      for (int i = 0; i < 100; ++i) {
        const int k = (i * 7 + t * 13) % 100;
        r.read(k, record);
        good += text_of(record.media.view()) == payload(k + 1000);
      }
    });
  }
  for (auto& t : threads) t.join();
  EXPECT_EQ(good, 400);
}

TEST(Shard, the_h5py_example_of_the_format_page_reads_it) {
  if (std::system(TPO_PYTHON " -c 'import h5py' 2>/dev/null") != 0) GTEST_SKIP() << "python3-h5py is not installed";
  const testing::ScratchFolder dir;
  ShardWriter w(dir / "s.h5");
  w.add(bytes_of("\n\x01"
                 "a"),
        {});
  w.add(bytes_of("\n\x02"
                 "bc"),
        bytes_of("picture"));
  w.finish();
  const std::string page = read_file(std::string(TPO_SOURCE_DIR) + "/data/FORMAT.md");
  const size_t begin = page.find("```python\n") + 10, end = page.find("```", begin);
  ASSERT_NE(end, std::string::npos);
  testing::write_text(dir / "example.py", page.substr(begin, end - begin));
  ASSERT_EQ(std::system(cat(TPO_PYTHON " ", dir / "example.py", " ", dir / "s.h5", " > ", dir / "out").c_str()), 0);
  char hash[20];
  std::snprintf(hash, sizeof hash, "%016llx",
                static_cast<unsigned long long>(xxh3(std::string_view("\n\x02"
                                                                      "bc"))));
  const std::string out = read_file(dir / "out");
  EXPECT_HAS(out, "0 sample 0 3 ");
  EXPECT_HAS(out, cat("1 sample 64 4 ", hash, " 0a026263"));
  EXPECT_HAS(out, "1 media 0 7 ");
}

TEST(Shard, a_missing_file_names_itself) {
  EXPECT_HAS(message_of<DataError>([] { ShardReader r("/nowhere/shard-00003.h5"); }),
             "/nowhere/shard-00003.h5 is missing");
}

TEST(Shard, a_truncated_file_is_refused_at_any_length) {
  const testing::ScratchFolder dir;
  const std::string whole = read_file(write_shard(dir / "s.h5", 50));
  for (size_t keep : {size_t{0}, size_t{10}, size_t{500}, whole.size() / 2, whole.size() - 1}) {
    testing::write_text(dir / "cut.h5", whole.substr(0, keep));
    EXPECT_HAS(message_of<DataError>([&] { ShardReader r(dir / "cut.h5"); }), "cut.h5");
  }
}

TEST(Shard, a_flipped_byte_of_a_record_names_file_record_and_field) {
  const testing::ScratchFolder dir;
  const std::string path = write_shard(dir / "s.h5", 10);
  std::string whole = read_file(path);
  const size_t at = whole.find(payload(1007));
  ASSERT_NE(at, std::string::npos);
  whole[at + 5] ^= 1;
  testing::write_text(path, whole);
  const ShardReader r(path);
  Record record;
  r.read(6, record);
  const std::string m = message_of<DataError>([&] { r.read(7, record); });
  EXPECT_HAS(m, path);
  EXPECT_HAS(m, "record 7 field media");
  const ShardReader careless(path, ShardReader::Checksums::kSkip);
  EXPECT_NO_THROW(careless.read(7, record));
}

TEST(Shard, another_version_is_refused_with_both_versions) {
  const testing::ScratchFolder dir;
  H5Contents plan;
  plan.texts["format"] = "tpo-shard";
  plan.numbers["format_version"] = 2;
  plan.numbers["records"] = 0;
  h5_create(dir / "v2.h5", plan);
  EXPECT_HAS(message_of<DataError>([&] { ShardReader r(dir / "v2.h5"); }), "version 2, this program reads version 1");
  plan.texts["format"] = "something";
  h5_create(dir / "other.h5", plan);
  EXPECT_HAS(message_of<DataError>([&] { ShardReader r(dir / "other.h5"); }), "not a shard");
}

TEST(Shard, an_unfinished_writer_leaves_nothing) {
  const testing::ScratchFolder dir;
  {
    ShardWriter w(dir / "s.h5");
    w.add(bytes_of("x"), {});
  }
  EXPECT_TRUE(std::filesystem::is_empty(dir.path()));
}

// Runs body in a child whose files may not grow past `limit` bytes, the nearest to a full disk without a disk of one's
// own. The child prints nothing; exit code 0 when body returns true.
template <class F>
bool in_child_with_file_limit(rlim_t limit, F body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    std::signal(SIGXFSZ, SIG_IGN);
    const rlimit r{limit, limit};
    ::setrlimit(RLIMIT_FSIZE, &r);
    bool ok = false;
    try {
      ok = body();
    } catch (...) {
    }
    ::_exit(ok ? 0 : 1);
  }
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(Shard, a_full_disk_is_an_io_error_that_names_the_file_and_leaves_the_old_one) {
  const testing::ScratchFolder dir;
  const std::string path = write_shard(dir / "s.h5", 3), before = read_file(path);
  for (rlim_t limit : {rlim_t{0}, rlim_t{100}, rlim_t{3000}, rlim_t{60000}}) {
    EXPECT_TRUE(in_child_with_file_limit(limit, [&] {
      try {
        write_shard(path, 300);
      } catch (const IoError& e) {
        return std::string(e.what()).find(path) != std::string::npos;
      }
      return false;
    })) << limit;
    EXPECT_EQ(read_file(path), before);
    EXPECT_EQ(std::distance(std::filesystem::directory_iterator(dir.path()), {}), 1)
        << "a temporary file was left, limit " << limit;
  }
}

}  // namespace
}  // namespace tpo
