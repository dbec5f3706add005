#pragma once
// What the fuzzers share: random choices, mutations of a text, and an alarm for allocations larger than an input
// explains. A fuzzer includes it once; it replaces the program's operator new.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <new>
#include <random>
#include <string>
#include <vector>

namespace tpo::testing {

inline size_t most_bytes = 0;  // of one allocation; 0: not watched

class Watch {
 public:
  explicit Watch(size_t bytes) { most_bytes = bytes; }
  ~Watch() { most_bytes = 0; }
  Watch(const Watch&) = delete;
  Watch& operator=(const Watch&) = delete;
};

// Deterministic in the seed. A fuzzer derives from it.
class Mutator {
 public:
  // `splices`: what is put between or in the place of a text's bytes.
  Mutator(uint64_t seed, std::vector<std::string> splices) : random_(seed), splices_(std::move(splices)) {}

  uint64_t draw() { return random_(); }
  uint64_t below(uint64_t n) { return random_() % n; }
  template <class T>
  const T& pick(const std::vector<T>& from) {
    return from[below(from.size())];
  }

  // Up to three changes: a byte, a part taken out, doubled, replaced or cut off, a splice, another digit.
  std::string mutated(std::string text) {
    for (uint64_t i = 0, n = below(4); i < n && !text.empty(); ++i) change(text);
    return text;
  }

 private:
  void change(std::string& text) {
    const size_t at = below(text.size()), length = below(std::min<size_t>(40, text.size() - at) + 1);
    switch (below(7)) {
      case 0:
        text[at] = static_cast<char>(random_());
        break;
      case 1:
        text.erase(at, length);
        break;
      case 2:
        text.insert(below(text.size()), text.substr(at, length));
        break;
      case 3:
        text.insert(at, pick(splices_));
        break;
      case 4:
        text.replace(at, length, pick(splices_));
        break;
      case 5:
        text.resize(at);
        break;
      default:
        if (text[at] >= '0' && text[at] <= '9') text[at] = static_cast<char>('0' + below(10));
    }
  }

  std::mt19937_64 random_;
  std::vector<std::string> splices_;
};

}  // namespace tpo::testing

// Not inlined: the compiler would see memory of malloc given to delete. Both forms, since a sanitizer that brings one
// of them wants its memory back by its own delete.
[[gnu::noinline]] void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  if (tpo::testing::most_bytes > 0 && bytes > tpo::testing::most_bytes) {
    std::fprintf(stderr, "an allocation of %zu bytes\n", bytes);
    std::abort();
  }
  return std::malloc(bytes);
}
[[gnu::noinline]] void* operator new(size_t bytes) {
  if (void* p = operator new(bytes, std::nothrow)) return p;
  throw std::bad_alloc();
}
[[gnu::noinline]] void operator delete(void* p) noexcept { std::free(p); }
[[gnu::noinline]] void operator delete(void* p, size_t) noexcept { std::free(p); }
