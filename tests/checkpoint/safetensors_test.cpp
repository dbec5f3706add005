#include "checkpoint/safetensors/safetensors.h"

#include <cmath>
#include <limits>

#include "checkpoint/safetensors/convert.h"
#include "checkpoint/safetensors/json.h"
#include "checkpoint/safetensors/writer.h"
#include "core/dtype.h"
#include "core/rng.h"
#include "tests/checkpoint/checkpoint_support.h"

namespace tpo {
namespace {

std::string file_bytes(const std::string& header, const std::string& data) {
  const uint64_t n = header.size();
  return std::string(reinterpret_cast<const char*>(&n), 8) + header + data;
}

// Two tensors of 6 and 4 bytes.
const char* const kGood = R"({"__metadata__":{"format":"pt"},"b":{"dtype":"F32","shape":[],"data_offsets":[6,10]},)"
                          R"("a":{"dtype":"BF16","shape":[3,1],"data_offsets":[0,6]}})";

TEST(Safetensors, a_header_as_the_public_description_says) {
  const auto tensors = parse_safetensors_header(cat(kGood, "   "), 10, "f");
  ASSERT_EQ(tensors.size(), 2u);
  EXPECT_EQ(tensors[0].name, "a");
  EXPECT_EQ(tensors[0].type, SafeType::kBF16);
  EXPECT_EQ(tensors[0].shape, (Shape{3, 1}));
  EXPECT_EQ(tensors[1].shape, Shape{});
  EXPECT_EQ(tensors[1].begin, 6);
  EXPECT_TRUE(parse_safetensors_header("{}", 0, "f").empty());
  const char* empty = R"({"e\u00e9\n":{"shape":[0,9223372036854775807,2],"data_offsets":[0,0],"dtype":"F64"}})";
  EXPECT_EQ(parse_safetensors_header(empty, 0, "f")[0].name, "e\xc3\xa9\n");
  EXPECT_TRUE(parse_safetensors_header(R"({"__metadata__":null})", 0, "f").empty());
}

// Types and shapes that nothing here computes with are carried along as bytes.
TEST(Safetensors, what_has_no_place_here_is_opaque) {
  const struct {
    const char *dtype, *shape;
    int64_t bytes;
    SafeType type;
  } cases[] = {{"F4", "8", 4, SafeType::kOpaque},
               {"F6_E2M3", "2,2", 3, SafeType::kOpaque},
               {"F8_E8M0", "4", 4, SafeType::kF8E8M0},
               {"C64", "3", 24, SafeType::kC64},
               {"F32", "1,1,1,1,1,1,2", 8, SafeType::kOpaque}};
  const TempFolder dir;
  int n = 0;
  for (const auto& c : cases) {
    const std::string spelled = cat(R"("dtype":")", c.dtype, R"(","shape":[)", c.shape, "]");
    const std::string header = cat(R"({"z":{)", spelled, R"(,"data_offsets":[0,)", c.bytes, "]}}");
    const SafeTensor t = parse_safetensors_header(header, c.bytes, "f").at(0);
    EXPECT_EQ(t.type, c.type) << c.dtype;
    EXPECT_EQ(t.bytes, t.shape.numel() * width_of(t.type));
    const std::string out = cat(dir.path(), "/", n++);
    write_safetensors(out, {{t.name, t.type, t.shape, 0, t.spelled}},
                      [](size_t, int64_t, std::span<std::byte> to) { std::fill(to.begin(), to.end(), std::byte{7}); });
    EXPECT_NE(slurp(out + "/model.safetensors").find(spelled), std::string::npos) << "written as it came";
  }
}

TEST(Safetensors, other_formats_are_named) {
  const TempFolder dir;
  const std::string path = dir.path() + "/m.safetensors";
  const std::pair<std::string, const char*> cases[] = {
      {"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "git lfs pull"},
      {std::string("PK\x03\x04\0\0\x08\x08", 8) + "archive/data.pkl", "pt_to_safetensors.py"},
      {std::string("\x80\x02\x8a\nl\xfc\x9c\x46\xf9\x20", 10), "pt_to_safetensors.py"}};
  for (const auto& [bytes, says] : cases) {
    spit(path, bytes);
    EXPECT_NE(message_of<DataError>([&] { SafetensorsReader reader(path); }).find(says), std::string::npos) << says;
  }
  std::filesystem::remove(path), spit(dir.path() + "/pytorch_model.bin", "x");
  EXPECT_NE(message_of<DataError>([&] { SafetensorsReader reader(dir.path()); }).find("pt_to_safetensors.py"),
            std::string::npos);
}

TEST(Safetensors, every_lie_of_a_header_names_file_and_tensor) {
  struct Lie {
    const char *from, *to;
    const char* says;
  };
  const Lie lies[] = {
      {"[0,6]", "[0,8]", "tensor a: data_offsets [0, 8] are not the bytes of BF16 (3,1)"},
      {"[0,6]", "[6,0]", "tensor a: data_offsets"},
      {"[0,6]", "[0,6,6]", "tensor a: data_offsets must be two numbers"},
      {"[0,6]", "[-1,5]", "whole number"},
      {"[0,6]", "[0,6.0]", "whole number"},
      {"[0,6]", "[0,99999999999999999999]", "whole number"},
      {"[6,10]", "[7,11]", "tensor b ends at byte 11 of the data, which has 10"},
      {"[6,10]", "[5,9]", "tensor b begins at byte 5 of the data, inside the tensor before it"},
      {"[6,10]", "[9223372036854775803,9223372036854775807]", "tensor b ends at byte"},
      {"\"shape\":[],\"data_offsets\":[6,10]", "\"shape\":[0],\"data_offsets\":[6,6]", "last tensor ends at byte 6"},
      {"\"shape\":[3,1],\"data_offsets\":[0,6]", "\"shape\":[2,1],\"data_offsets\":[0,4]", "bytes 4 to 6"},
      {"[3,1]", "[3,4611686018427387905]", "tensor a: data_offsets"},
      {"[3,1]", "[1,1,1,1,1,1,4]", "tensor a: data_offsets"},
      {"BF16\",\"shape\":[3,1]", "F4\",\"shape\":[11]", "are not the bytes of F4 (11)"},
      {"BF16", "BF17", "tensor a has unknown dtype BF17"},
      {"BF16", "F32", "tensor a: data_offsets [0, 6] are not the bytes of F32 (3,1)"},
      {"\"dtype\":\"BF16\",", "", "tensor a lacks"},
      {"\"dtype\":\"BF16\",", "\"dtype\":\"BF16\",\"dtype\":\"BF16\",", "field dtype is unknown or appears twice"},
      {"\"dtype\":\"BF16\",", "\"dtype\":\"BF16\",\"x\":1,", "field x is unknown"},
      {"\"a\":", "\"b\":", "b appears twice"},
      {"\"pt\"", "1", "'\"' is missing"},
      {"}}", "}}}", "something follows"},
      {"}}", "}", "',' is missing"},
      {"\"a\"", "\"a\\q\"", "unknown escape"},
      {"\"a\"", "\"\\ud800x\"", "surrogate"},
      {"\"a\"", "\"\xff\xfe\"", "not UTF-8"},
      {"\"a\"", "\"\xc0\xaf\"", "not UTF-8"},
      {"\"a\"", "\"\xed\xa0\x80\"", "not UTF-8"},
      {"\"a\"", "\"\xf4\x90\x80\x80\"", "not UTF-8"},
      {"\"a\"", "\"\xe2\x82\"", "not UTF-8"},
      {"\"a\"", "\"a", "control"},
  };
  for (const Lie& lie : lies) {
    std::string header = kGood;
    header.replace(header.rfind(lie.from), std::string(lie.from).size(), lie.to);
    if (std::string(lie.says) == "control") header.insert(header.rfind("\"a") + 2, 1, '\n');
    const std::string said = message_of<DataError>([&] { parse_safetensors_header(header, 10, "some.file"); });
    EXPECT_NE(said.find(lie.says), std::string::npos) << header << "\n" << said;
    EXPECT_NE(said.find("some.file"), std::string::npos) << said;
  }
}

TEST(Safetensors, a_length_that_lies_is_refused_before_memory_is_taken) {
  const TempFolder dir;
  const std::string path = dir.path() + "/m.safetensors";
  for (const uint64_t claim : {uint64_t{4} << 30, ~uint64_t{0}, uint64_t{3}, uint64_t{1} << 63}) {
    std::string bytes = file_bytes("{}", "");
    std::memcpy(bytes.data(), &claim, 8);
    spit(path, bytes);
    EXPECT_NE(message_of<DataError>([&] { SafetensorsReader reader(path); }).find("header claims"), std::string::npos);
  }
  spit(path, "1234567");
  EXPECT_NE(message_of<DataError>([&] { SafetensorsReader reader(path); }).find("no header"), std::string::npos);
  EXPECT_NE(message_of<IoError>([&] { SafetensorsReader reader(path + "x"); }).find("does not exist"),
            std::string::npos);
}

TEST(Safetensors, an_index_that_lies) {
  const TempFolder dir;
  const std::string index = dir.path() + "/model.safetensors.index.json";
  const auto shard = [&](const std::string& name, const std::string& tensor) {
    spit(dir.path() + "/" + name,
         file_bytes(R"({")" + tensor + R"(":{"dtype":"F16","shape":[1],"data_offsets":[0,2]}})", "xy"));
  };
  shard("1.safetensors", "a"), shard("2.safetensors", "b");
  const std::string good = R"({"metadata":{"total_size":4.0,"x":[null,true,-1e3]},"weight_map":{"a":"1.safetensors",)"
                           R"("b":"2.safetensors"}})";
  const auto refused = [&](const std::string& text) {
    spit(index, text);
    return message_of<DataError>([&] { SafetensorsReader reader(dir.path()); });
  };
  const auto with = [&](const std::string& from, const std::string& to) {
    std::string text = good;
    return text.replace(text.rfind(from), from.size(), to);
  };
  spit(index, good);
  EXPECT_EQ(SafetensorsReader(dir.path()).tensors().size(), 2u);
  const auto has = [](const std::string& said, const char* part) { return said.find(part) != std::string::npos; };
  EXPECT_TRUE(
      has(refused(with("2.safetensors", "3.safetensors")), "tensor b is said to be in 3.safetensors, which is a"));
  EXPECT_TRUE(has(refused(with("2.safetensors", "1.safetensors")), "1.safetensors, which does not have it"));
  EXPECT_TRUE(has(refused(with("\"b\"", "\"a\"")), "tensor a appears twice"));
  EXPECT_TRUE(has(refused(with("2.safetensors", "../2.safetensors")), "legal is a file name of the same folder"));
  EXPECT_TRUE(has(refused(with("2.safetensors", ".")), "legal is a file name of the same folder"));
  EXPECT_TRUE(has(refused(with(",\"b\":\"2.safetensors\"", ",\"c\":\"2.safetensors\"")), "tensor c is said to be in"));
  EXPECT_TRUE(has(refused("{}"), "has no weight_map"));
  EXPECT_TRUE(has(refused(std::string(1000, '[')), "at byte"));
  EXPECT_TRUE(has(refused(R"({"x":)" + std::string(1000, '[')), "nested too deeply"));
  shard("2.safetensors", "a");
  EXPECT_TRUE(has(refused(with("\"b\":", "\"z\":")), "tensor a is also in 1.safetensors"));
  shard("2.safetensors", "b");
  spit(dir.path() + "/2.safetensors",
       file_bytes(R"({"b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"c":{"dtype":"U8","shape":[1],)"
                  R"("data_offsets":[1,2]}})",
                  "xy"));
  EXPECT_TRUE(has(refused(good), "2.safetensors: tensor c is not in the index"));
  std::filesystem::remove(index);
  EXPECT_TRUE(has(message_of<DataError>([&] { SafetensorsReader reader(dir.path()); }), "2 files"));
}

TEST(Safetensors, what_is_written_is_read_in_one_file_and_in_shards) {
  const TempFolder dir;
  std::vector<TensorToWrite> tensors{{"w \"1\"", SafeType::kBF16, {700, 1001}},
                                     {"ids", SafeType::kI64, {1, 7}},
                                     {"empty", SafeType::kF16, {0, 3}},
                                     {"scalar", SafeType::kF32, {}},
                                     {"large", SafeType::kF32, {3, 300001}}};
  const auto byte = [](size_t i, int64_t at) { return static_cast<std::byte>(mix64(i * 1000003 + at) & 255); };
  const TensorFill fill = [&](size_t i, int64_t at, std::span<std::byte> to) {
    for (size_t k = 0; k < to.size(); ++k) to[k] = byte(i, at + static_cast<int64_t>(k));
  };
  for (const int64_t most : {int64_t{1} << 40, int64_t{1500000}}) {
    assign_shards(tensors, most);
    const std::string folder = cat(dir.path(), "/", most);
    write_safetensors(folder, tensors, fill);
    SafetensorsReader reader(folder);
    EXPECT_EQ(reader.files().size(), most > 2000000 ? 1u : 2u);
    ASSERT_EQ(reader.tensors().size(), tensors.size());
    for (size_t i = 0; i < tensors.size(); ++i) {
      const auto& e = reader.tensors().at(tensors[i].name);
      EXPECT_EQ(e.tensor.shape, tensors[i].shape);
      EXPECT_EQ(e.offset % width_of(e.tensor.type), 0);
      std::vector<std::byte> bytes(static_cast<size_t>(e.tensor.bytes));
      reader.read(e, 0, bytes);
      for (size_t k = 0; k < bytes.size(); ++k) ASSERT_EQ(bytes[k], byte(i, static_cast<int64_t>(k))) << k;
    }
    EXPECT_EQ(leftovers(dir.path()), std::vector<std::string>{});
  }
  EXPECT_NE(message_of<ConfigError>([&] {
              write_safetensors(cat(dir.path(), "/1500000"), tensors, fill);
            }).find("exists already"),
            std::string::npos);
  const TensorFill fails = [](size_t, int64_t, std::span<std::byte>) { throw DataError("no more"); };
  EXPECT_EQ(message_of<DataError>([&] { write_safetensors(dir.path() + "/half/", tensors, fails); }), "no more");
  EXPECT_FALSE(std::filesystem::exists(dir.path() + "/half"));
  EXPECT_EQ(leftovers(dir.path()), std::vector<std::string>{});
}

// 45 MiB and a bit: six blocks, read in steps that cross them, with jumps back and forth and ends told too early.
TEST(Safetensors, reading_ahead_gives_the_bytes_of_the_file) {
  const TempFolder dir;
  const std::string path = dir.path() + "/f";
  std::string text((45 << 20) + 77, '\0');
  for (size_t i = 0; i < text.size(); i += 8) {
    const uint64_t word = mix64(i);
    std::memcpy(text.data() + i, &word, std::min<size_t>(8, text.size() - i));
  }
  spit(path, text);
  const auto size = static_cast<int64_t>(text.size());
  ReadAhead file(path);
  const auto expect = [&](int64_t offset, int64_t n, int64_t end) {
    std::string got(static_cast<size_t>(n), '\0');
    file.read(offset, std::as_writable_bytes(std::span(got)), 0, end);
    ASSERT_EQ(got, text.substr(static_cast<size_t>(offset), static_cast<size_t>(n))) << offset;
  };
  for (int64_t at = 5; at < size; at += 3500001) expect(at, std::min<int64_t>(3500001, size - at), size);
  for (const int64_t at : {size - 1, int64_t{0}, int64_t{30 << 20}, int64_t{1 << 20}, int64_t{14 << 20}})
    expect(at, std::min<int64_t>(18 << 20, size - at), std::max<int64_t>(at + 1, 2 << 20));
  std::filesystem::resize_file(path, 100);
  EXPECT_NE(message_of<IoError>([&] {
              ReadAhead(path).read(0, std::as_writable_bytes(std::span(text)).first(200), 0, 2 << 20);
            }).find("ends at"),
            std::string::npos);
}

// All 65,536 bit patterns of both narrow types: widening is exact, so narrowing must give them back.
TEST(Safetensors, narrow_types_survive_fp32) {
  std::vector<uint16_t> all(65536), back(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  std::vector<float> wide(65536);
  for (const SafeType type : {SafeType::kF16, SafeType::kBF16}) {
    convert(type, std::as_bytes(std::span(all)), SafeType::kF32, std::as_writable_bytes(std::span(wide)));
    convert(SafeType::kF32, std::as_bytes(std::span(wide)), type, std::as_writable_bytes(std::span(back)));
    for (size_t i = 0; i < all.size(); ++i) {
      const int kept = std::isnan(wide[i]) ? 0x8000 : 0xffff;  // of a NaN the sign
      ASSERT_EQ(back[i] & kept, all[i] & kept) << type;
    }
  }
}

TEST(Safetensors, narrowing_rounds_to_nearest_even_and_counts_overflow) {
  // Every neighbouring pair of finite f16: the midpoint goes to the even one, its neighbours to their own side.
  for (uint16_t low = 0; low < 0x7bff; ++low) {
    const float a = f32_of_f16(low), b = f32_of_f16(static_cast<uint16_t>(low + 1)), middle = (a + b) / 2;  // exact
    ASSERT_EQ(f16_of_f32(middle), low % 2 == 0 ? low : low + 1);
    ASSERT_EQ(f16_of_f32(std::nextafter(middle, 0.0f)), low);
    ASSERT_EQ(f16_of_f32(-std::nextafter(middle, 1e9f)), (low + 1) | 0x8000);
  }
  EXPECT_EQ(f32_of_f16(1), std::ldexp(1.0f, -24));
  EXPECT_EQ(f32_of_f16(0x3c00), 1.0f);
  EXPECT_EQ(f32_of_f16(0x7bff), 65504.0f);
  const std::vector<float> in{65519.0f, 65520.0f, -1e9f, std::numeric_limits<float>::infinity(), NAN, 3.4e38f};
  std::vector<uint16_t> out(in.size());
  const auto to = [&](SafeType t) {
    return convert(SafeType::kF32, std::as_bytes(std::span(in)), t, std::as_writable_bytes(std::span(out)));
  };
  EXPECT_EQ(to(SafeType::kF16), 3);
  EXPECT_EQ(out[0], 0x7bff);
  EXPECT_EQ(out[1], 0x7c00);
  EXPECT_TRUE(std::isnan(f32_of_f16(out[4])));
  EXPECT_EQ(to(SafeType::kBF16), 1) << "3.4e38 is above the largest bf16, 3.3895e38, by more than half a step";
}

}  // namespace
}  // namespace tpo
