// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/bitmap/bit_tree.h"

#include <algorithm>
#include <atomic>
#include <catch2/catch.hpp>
#include <random>
#include <thread>
#include <vector>

namespace strata {
namespace {

using Random = std::mt19937_64;

uint64_t find(const std::vector<bool>& bits, uint64_t from, uint64_t end, bool value) {
  while (from < end && bits[from] != value) ++from;
  return std::min(from, end);
}

void compare(const BitTree& tree, const std::vector<bool>& reference, Random& random) {
  uint64_t size = reference.size();
  REQUIRE(tree.count() ==
          static_cast<uint64_t>(std::count(reference.begin(), reference.end(), true)));
  for (int i = 0; i < 20; ++i) {
    uint64_t end = random() % (size + 1);
    uint64_t from = end == 0 ? 0 : random() % end;
    REQUIRE(tree.next_set(from, end) == find(reference, from, end, true));
    REQUIRE(tree.next_clear(from, end) == find(reference, from, end, false));
    uint64_t bit = random() % size;
    REQUIRE(tree.test(bit) == reference[bit]);
    REQUIRE(tree.count(from, end - from) ==
            static_cast<uint64_t>(std::count(reference.begin() + static_cast<long>(from),
                                             reference.begin() + static_cast<long>(end), true)));
  }
}

void change_at_random(BitTree& tree, std::vector<bool>& reference, Random& random) {
  uint64_t first = random() % reference.size();
  uint64_t most = random() % 4 == 0 ? reference.size() - first : 100;
  uint64_t count = std::min(reference.size() - first, random() % (most + 1));
  bool value = random() % 2 == 0;
  if (value)
    tree.set(first, count);
  else
    tree.clear(first, count);
  std::fill_n(reference.begin() + static_cast<long>(first), count, value);
}

TEST_CASE("a bit tree does what a vector of bits does") {
  Random random(1);
  for (uint64_t size : {1, 63, 64, 65, 4095, 4096, 4097, 70000, 300000}) {
    BitTree tree(size);
    std::vector<bool> reference(size);
    REQUIRE(tree.ok());
    for (int i = 0; i < 60; ++i) {
      change_at_random(tree, reference, random);
      compare(tree, reference, random);
    }
  }
}

TEST_CASE("a search in a bit tree finds every bit and ends") {
  BitTree tree(uint64_t{1} << 30);
  const std::vector<uint64_t> kBits{0, 1, 64, 4096, 262144, 262145, (uint64_t{1} << 30) - 1};
  for (uint64_t bit : kBits) tree.set(bit, 1);
  std::vector<uint64_t> found;
  for (uint64_t at = tree.next_set(0, tree.size()); at < tree.size();
       at = tree.next_set(at + 1, tree.size()))
    found.push_back(at);
  CHECK(found == kBits);
  tree.clear(0, tree.size());
  CHECK(tree.next_set(0, tree.size()) == tree.size());
}

TEST_CASE("an empty bit tree has nothing to find") {
  BitTree tree(0);
  CHECK(tree.ok());
  CHECK(tree.count() == 0);
  CHECK(tree.next_set(0, 0) == 0);
}

TEST_CASE("a bit tree of absurd size is refused") {
  CHECK_FALSE(BitTree(uint64_t{1} << 60).ok());
}

TEST_CASE("merging and resizing bit trees keeps what is set") {
  Random random(2);
  for (int round = 0; round < 30; ++round) {
    uint64_t size = 1 + random() % 20000;
    BitTree a(size);
    BitTree b(size);
    std::vector<bool> reference_a(size);
    std::vector<bool> reference_b(size);
    for (int i = 0; i < 10; ++i) {
      change_at_random(a, reference_a, random);
      change_at_random(b, reference_b, random);
    }
    a.merge(b);
    for (uint64_t i = 0; i < size; ++i) reference_a[i] = reference_a[i] || reference_b[i];
    compare(a, reference_a, random);
    uint64_t other = 1 + random() % 20000;
    reference_a.resize(other);
    compare(a.resized(other), reference_a, random);
  }
}

TEST_CASE("threads that set and clear neighbouring bits lose none") {
  constexpr int kThreads = 4;
  constexpr uint64_t kBits = 64 * 64 * 4;
  BitTree tree(kBits);
  std::vector<std::vector<bool>> references(kThreads, std::vector<bool>(kBits));
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&, t] {
      Random random(static_cast<uint64_t>(t));
      for (int i = 0; i < 20000; ++i) {
        uint64_t bit = random() % (kBits / kThreads) * kThreads + static_cast<uint64_t>(t);
        bool value = random() % 2 == 0;
        if (value)
          tree.set(bit, 1);
        else
          tree.clear(bit, 1);
        references[static_cast<size_t>(t)][bit] = value;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (uint64_t at = 0; at < kBits; ++at) {
    bool expected = references[at % kThreads][at];
    REQUIRE(tree.test(at) == expected);
    // Found, too, which takes the levels above.
    if (expected) REQUIRE(tree.next_set(at, kBits) == at);
  }
}

}  // namespace
}  // namespace strata
