// SPDX-License-Identifier: GPL-2.0-or-later
//
// The active L1 table in memory.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdlib>
#include <memory>
#include <new>
#include <set>
#include <utility>
#include <vector>

#include "block/base/bytes.h"
#include "block/qcow2/format/entries.h"

namespace strata::qcow2 {

// Entries are read without a lock, in any context. Changing them is for the holder of the metadata
// lock. Growing makes a new array; the old ones stay until the end, since a reader may hold one.
// Stretches of empty entries take no memory, however large the table claims to be.
class L1Table {
 public:
  static constexpr size_t kEntriesPerPiece = 512;  // what is written back at once: 4 KiB

  // Past its end the table has empty entries.
  L1Entry load(L1Index index) const noexcept {
    const Array* array = array_.load(std::memory_order_acquire);
    if (array == nullptr || index.value >= array->size) return L1Entry();
    return L1Entry(array->at(index.value).load(std::memory_order_acquire));
  }
  size_t size() const noexcept {
    const Array* array = array_.load(std::memory_order_acquire);
    return array == nullptr ? 0 : array->size;
  }

  // --- Metadata lock ---

  // Replaces everything by empty entries; nothing is dirty afterwards.
  void resize(size_t entries) {
    publish(std::make_unique<Array>(entries));
    dirty_.clear();
  }
  // As on disk; they are not dirty.
  void fill(size_t first, ConstBytes big_endian) noexcept {
    Array& array = *array_.load(std::memory_order_relaxed);
    for (size_t i = 0; i < big_endian.size() / 8; ++i)
      array.put(first + i, load_be<uint64_t>(big_endian, i * 8));
  }
  void grow(size_t entries) {
    auto fresh = std::make_unique<Array>(entries);
    for (size_t i = 0; i < std::min(size(), entries); ++i) fresh->put(i, load(L1Index(i)).raw);
    publish(std::move(fresh));
  }
  void store(L1Index index, L1Entry entry) noexcept {
    array_.load(std::memory_order_relaxed)->put(index.value, entry.raw);
    dirty_.insert(index.value / kEntriesPerPiece);
  }
  void mark_dirty(size_t piece) { dirty_.insert(piece); }
  bool is_dirty() const noexcept { return !dirty_.empty(); }
  std::set<size_t> take_dirty() { return std::exchange(dirty_, {}); }
  // The entries of a piece, as on disk.
  std::vector<std::byte> encode(size_t first, size_t count) const {
    std::vector<std::byte> bytes(count * 8);
    for (size_t i = 0; i < count; ++i)
      store_be<uint64_t>(bytes, i * 8, load(L1Index(first + i)).raw);
    return bytes;
  }

 private:
  struct Array {
    explicit Array(size_t n) : size(n), words(static_cast<uint64_t*>(std::calloc(n + 1, 8))) {
      if (words == nullptr) throw std::bad_alloc();
    }
    Array(const Array&) = delete;
    Array& operator=(const Array&) = delete;
    ~Array() { std::free(words); }
    std::atomic_ref<uint64_t> at(size_t index) const noexcept {
      return std::atomic_ref(words[index]);
    }
    // A page of zeroes is not written to.
    void put(size_t index, uint64_t raw) noexcept {
      if (at(index).load(std::memory_order_relaxed) != raw)
        at(index).store(raw, std::memory_order_release);
    }
    size_t size;
    uint64_t* words;
  };
  void publish(std::unique_ptr<Array> fresh) {
    array_.store(fresh.get(), std::memory_order_release);
    arrays_.push_back(std::move(fresh));
  }

  std::atomic<Array*> array_{nullptr};
  std::vector<std::unique_ptr<Array>> arrays_;
  std::set<size_t> dirty_;  // pieces
};

}  // namespace strata::qcow2
