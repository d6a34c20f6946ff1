// SPDX-License-Identifier: GPL-2.0-or-later
//
// Changes that make sense of an image: fields of the header, and words of tables that refer to some
// cluster of it with some flags. Bytes at random seldom get past the header.
#include <algorithm>
#include <array>
#include <random>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/qcow2_image_input.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t* data, size_t size, size_t max_size);

namespace {

using namespace strata;

constexpr size_t kHeaderBytes = 112;

class Mutation {
 public:
  Mutation(uint8_t* data, size_t size, unsigned seed)
      : control_(data, fuzz::kImageControlBytes),
        image_(std::as_writable_bytes(std::span(data, size)).subspan(fuzz::kImageControlBytes)),
        random_(seed) {
    bits_ = std::clamp(load_be<uint32_t>(image_, 20), 9u, 21u);
  }

  void apply() {
    for (unsigned i = 0, count = 1 + any(3); i < count; ++i) {
      switch (any(8)) {
        case 0:
        case 1:
          control_[any(control_.size())] = static_cast<uint8_t>(any(256));
          break;
        case 2:
          change_header();
          break;
        case 3:
          put_word(any(image_.size() / 8) * 8);
          break;
        default:
          put_word(place_in_table());
      }
    }
  }

 private:
  struct Field {
    size_t offset;
    bool wide;
  };

  uint64_t any(uint64_t below) { return random_() % std::max<uint64_t>(below, 1); }

  uint64_t some_cluster() {
    uint64_t clusters = (image_.size() >> bits_) + 2;
    return any(clusters) << bits_;
  }

  uint64_t some_number() {
    switch (any(5)) {
      case 0:
        return any(20);
      case 1:
        return (uint64_t{1} << any(64)) + any(3) - 1;
      case 2:
        return UINT64_MAX - any(3);
      default:
        return some_cluster();
    }
  }

  void change_header() {
    constexpr std::array<Field, 17> kFields{{{8, true},
                                             {16, false},
                                             {20, false},
                                             {24, true},
                                             {32, false},
                                             {36, false},
                                             {40, true},
                                             {48, true},
                                             {56, false},
                                             {60, false},
                                             {64, true},
                                             {72, true},
                                             {80, true},
                                             {88, true},
                                             {96, false},
                                             {100, false},
                                             {104, false}}};
    const Field& field = kFields[any(kFields.size())];
    uint64_t value = some_number();
    // Feature bits, one by one.
    if (field.offset >= 72 && field.offset <= 88)
      value = load_be<uint64_t>(image_, field.offset) ^ uint64_t { 1 } << any(6);
    if (field.wide)
      store_be<uint64_t>(image_, field.offset, value);
    else
      store_be<uint32_t>(image_, field.offset, static_cast<uint32_t>(value));
  }

  // An entry of the tables that the header tells of, or of a table that one of them tells of.
  size_t place_in_table() {
    constexpr std::array<size_t, 3> kTables{40, 48, 64};  // L1, refcounts, snapshots
    uint64_t table = load_be<uint64_t>(image_, kTables[any(kTables.size())]);
    size_t at = entry_of(table);
    if (any(3) != 0) at = entry_of(load_be<uint64_t>(image_, at) & 0x00fffffffffffe00);
    return at;
  }
  size_t entry_of(uint64_t table) {
    uint64_t last = image_.size() / 8 * 8 - 8;
    return static_cast<size_t>(std::min(table / 8 * 8, last - 128) + any(16) * 8);
  }

  void put_word(size_t at) {
    at = std::min(at, image_.size() - 8);
    constexpr std::array<uint64_t, 10> kFlags{0,   0,          0,          1,          2,
                                              512, 1ull << 56, 1ull << 62, 1ull << 63, 1ull << 63};
    uint64_t value = load_be<uint64_t>(image_, at);
    switch (any(4)) {
      case 0:
        value ^= uint64_t{1} << any(64);
        break;
      case 1:
        value = some_number();
        break;
      default:
        value = some_cluster() | kFlags[any(kFlags.size())] | kFlags[any(kFlags.size())];
    }
    store_be<uint64_t>(image_, at, value);
  }

  std::span<uint8_t> control_;
  Bytes image_;
  std::minstd_rand random_;
  unsigned bits_ = 16;
};

}  // namespace

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t* data, size_t size, size_t max_size,
                                          unsigned seed) {
  if (seed % 4 == 0 || size < fuzz::kImageControlBytes + kHeaderBytes + 1024)
    return LLVMFuzzerMutate(data, size, max_size);
  Mutation(data, size, seed).apply();
  return size;
}
