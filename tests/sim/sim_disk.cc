// SPDX-License-Identifier: GPL-2.0-or-later
#include "tests/sim/sim_disk.h"

#include <algorithm>
#include <cerrno>

#include "block/aio/aio_context.h"
#include "block/base/error.h"
#include "block/graph/open.h"

namespace strata::sim {

void SimDisk::apply(std::vector<std::byte>& to, const Change& change) const {
  uint64_t end = change.offset + change.data.size();
  if (change.truncate) return to.resize(change.offset);
  if (to.size() < end) to.resize(end);
  std::copy(change.data.begin(), change.data.end(), to.begin() + static_cast<long>(change.offset));
}

void SimDisk::change(Change change) {
  if (on_change) on_change(change.offset, change.data);
  apply(current_, change);
  volatile_.push_back(std::move(change));
  ++changes;
  if (cut_after != 0 && changes == cut_after) {
    cut = after_power_cut(*random);
    was_cut = true;
    if (on_cut) on_cut();
  }
}

void SimDisk::flush() {
  durable_ = current_;
  volatile_.clear();
}

void SimDisk::restore(std::vector<std::byte> contents) {
  current_ = durable_ = std::move(contents);
  volatile_.clear();
}

// Any subset of the sectors that were written, in any order that keeps the last of those chosen for
// one sector on top or not.
std::vector<std::byte> SimDisk::after_power_cut(Random& chance) const {
  std::vector<std::byte> left = durable_;
  unsigned keep = static_cast<unsigned>(chance() % 101);
  std::vector<const Change*> order;
  for (const Change& change : volatile_) order.push_back(&change);
  if (chance() % 2 == 0) std::shuffle(order.begin(), order.end(), chance);
  for (const Change* change : order) {
    if (change->truncate) {
      if (chance() % 100 < keep) apply(left, *change);
      continue;
    }
    bool whole = chance() % 4 != 0;
    bool kept = chance() % 100 < keep;
    for (uint64_t at = 0; at < change->data.size();) {
      uint64_t sector_end = ((change->offset + at) / kSector + 1) * kSector - change->offset;
      uint64_t end = std::min<uint64_t>(change->data.size(), sector_end);
      if (!whole) kept = chance() % 100 < keep;
      if (kept) {
        apply(left, {change->offset + at,
                     {change->data.begin() + static_cast<long>(at),
                      change->data.begin() + static_cast<long>(end)},
                     false});
      }
      at = end;
    }
  }
  return left;
}

int SimDisk::fault_of_change() {
  if (random == nullptr) return 0;
  int error = 0;
  if (faults.eio != 0 && (*random)() % 1000 < faults.eio)
    error = EIO;
  else if (faults.enospc != 0 && (*random)() % 1000 < faults.enospc)
    error = ENOSPC;
  failed += error != 0 ? 1 : 0;
  return error;
}

class SimDriver final : public Driver {
 public:
  explicit SimDriver(const DriverDescriptor& descriptor)
      : Driver(descriptor),
        host_(static_cast<SimHost&>(const_cast<DriverDescriptor&>(descriptor))) {}

  Task<void> open(OpenContext& context) override {
    name_ = context.branch<qapi::BlockdevOptionsFile>().filename;
    disk_ = &host_.disk(name_);
    co_return;
  }
  Task<Status> preadv(uint64_t offset, IoVector into, ReadFlags) override {
    co_await linger();
    uint64_t size = disk_->current_.size();
    uint64_t there = offset < size ? std::min<uint64_t>(into.size(), size - offset) : 0;
    into.slice(0, there).copy_from(disk_->current_.data() + std::min(offset, size));
    into.slice(there, into.size() - there).fill(std::byte{0});
    co_return Status();
  }
  Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags) override {
    // The memory is the caller's until the end, and what it holds then counts.
    co_await linger();
    if (offset + from.size() > disk_->most_bytes) co_return Status::error(EFBIG);
    std::vector<std::byte> data(from.size());
    from.copy_to(data.data());
    if (int error = disk_->fault_of_change()) {
      // Some of it may have been written.
      data.resize(host_.random()() % (data.size() / kSector + 1) * kSector);
      if (!data.empty()) disk_->change({offset, std::move(data), false});
      co_return Status::error(error);
    }
    disk_->change({offset, std::move(data), false});
    co_await linger();
    co_return Status();
  }
  Task<Status> pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags) override {
    co_await linger();
    if (offset + bytes > disk_->most_bytes) co_return Status::error(EFBIG);
    if (int error = disk_->fault_of_change()) co_return Status::error(error);
    disk_->change({offset, std::vector<std::byte>(bytes), false});
    co_return Status();
  }
  // Holes read as zeroes; sometimes nothing happens, sometimes late.
  Task<Status> pdiscard(uint64_t offset, uint64_t bytes) override {
    for (int i = 0; i < 4; ++i) co_await linger();
    uint64_t size = disk_->current_.size();
    if (offset >= size || host_.random()() % 4 == 0) co_return Status();
    bytes = std::min(bytes, size - offset);
    disk_->change({offset, std::vector<std::byte>(bytes), false});
    co_return Status();
  }
  // What was written before it began; what came while it was under way may be in it.
  Task<Status> flush() override {
    co_await linger();
    if (disk_->random != nullptr && (*disk_->random)() % 1000 < disk_->faults.flush_eio) {
      ++disk_->failed;
      co_return Status::error(EIO);
    }
    disk_->flush();
    co_await linger();
    co_return Status();
  }
  Task<Result<uint64_t>> length() override {
    return Task<Result<uint64_t>>::ready(uint64_t{disk_->current_.size()});
  }
  Task<void> truncate(uint64_t size, TruncateOptions) override {
    if (size > disk_->most_bytes) throw Error::from_errno(EFBIG, "Could not resize");
    disk_->change({size, {}, true});
    co_return;
  }
  Limits limits(const Limits& of_children) const noexcept override {
    Limits limits = of_children;
    limits.request_alignment = kSector;
    return limits;
  }
  WriteFlags zero_flags() const noexcept override { return WriteFlag::may_unmap; }
  bool has_zero_init() const noexcept override { return true; }
  FileName file_name() const override { return {name_, {{"driver", "file"}, {"filename", name_}}}; }

 private:
  Task<void> linger() {
    while (host_.random()() % 1000 < host_.yields) co_await AioContext::current()->yield();
  }

  SimHost& host_;
  std::string name_;
  SimDisk* disk_ = nullptr;
};

namespace {

std::unique_ptr<Driver> make_driver(const DriverDescriptor& descriptor) {
  return std::make_unique<SimDriver>(descriptor);
}

}  // namespace

SimHost::SimHost(Random& random)
    : DriverDescriptor{.name = qapi::BlockdevDriver::file,
                       .is_protocol = true,
                       .create = make_driver},
      random_(random) {}

SimDisk& SimHost::disk(const std::string& name) {
  std::unique_ptr<SimDisk>& disk = disks_[name];
  if (disk) return *disk;
  disk = std::make_unique<SimDisk>();
  disk->most_bytes = most_bytes;
  return *disk;
}

}  // namespace strata::sim
