// SPDX-License-Identifier: GPL-2.0-or-later
//
// Persistent bitmaps on a simulated disk that loses power, or fails.
//
//   bitmap-sim [--seed N] [--runs COUNT]
//
// Queues write while commands add, clear, merge and remove bitmaps and the disk changes its size.
// Afterwards each sector tells which write it has: if that ended after the bitmap was last cleared,
// or never, its bit is set. No power cut costs a bitmap, but one while the disk changes its size; a
// failing disk may, too. Then the bitmap says so.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <string>

#include "block/graph/bitmaps.h"
#include "block/qcow2/bitmaps.h"
#include "block/qcow2/create.h"
#include "tests/sim/oracle.h"
#include "tests/sim/rig.h"

namespace strata::sim {
namespace {

constexpr uint64_t kNever = UINT64_MAX;

// What is known of the bitmaps: times are counts of events.
struct Model {
  struct Bitmap {
    uint64_t cleared = 0;     // when the last clear was answered
    bool in_command = false;  // a command on it is under way
  };
  std::map<std::string, Bitmap> bitmaps;
  std::map<Mark, uint64_t> ended;  // of each write
  uint64_t sectors = 0;
  uint64_t next_sectors = 0;  // while the size changes, or if that failed; else the same
};

class World : public Rig {
 public:
  explicit World(uint64_t seed) : Rig(seed), oracle_(kMostSectors) {
    layer_.keep_bitmaps_ahead();
    cluster_bits_ = 9 + static_cast<unsigned>(random_() % 8);
    faults_ = random_() % 4 == 0;
    resizes_ = random_() % 2 == 0;
    model_.sectors = model_.next_sectors = kSectors;
    host_.disk("disk").random = &random_;
  }
  void run();

 private:
  static constexpr uint64_t kSectors = 4096;  // at first
  static constexpr uint64_t kMostSectors = 3 * kSectors;

  void open();
  void arm();
  Task<void> write();
  Task<void> queue(unsigned operations);
  Task<void> command();
  Task<void> commands(unsigned operations);
  Task<void> all(unsigned operations);
  Task<void> act(unsigned what, std::string name, std::string other);
  Task<void> resize();
  void verify(const Model& model, bool whole);
  void verify_bitmap(const std::string& name, const Model& model, std::span<const std::byte> data);

  Oracle oracle_;
  Model model_;
  Model at_cut_;
  uint64_t clock_ = 0;
  Mark next_mark_ = 1;
  unsigned cluster_bits_ = 16;
  bool faults_ = false;
  bool resizes_ = false;
};

void World::open() {
  qapi::BlockdevOptions options;
  options.select(qapi::BlockdevDriver::qcow2);
  options.get_if<qapi::BlockdevOptionsQcow2>()->file = file_named("disk");
  NodePtr node = wait(open_node(loop_, layer_, std::move(options)));
  if (random_() % 2 == 0)
    qcow2::bitmaps_of(*node)->set_checkpoint_interval(std::chrono::milliseconds(0));
  user_.attach(loop_, std::move(node),
               {{Permission::consistent_read, Permission::write, Permission::resize}, {}});
}

Task<void> World::write() {
  uint64_t sectors = std::min(model_.sectors, model_.next_sectors);
  uint64_t first = random_() % sectors;
  uint64_t count = std::min(sectors - first, 1 + random_() % 32);
  if (!oracle_.try_begin(first, count)) co_return;
  Mark mark = next_mark_++;
  std::vector<std::byte> data(count * kSector);
  for (uint64_t i = 0; i < count; ++i) fill_sector(data.data() + i * kSector, mark, first + i);
  model_.ended[mark] = kNever;
  Status status =
      co_await user_.pwritev(first * kSector, IoVector::buffer(data.data(), data.size()));
  model_.ended[mark] = ++clock_;  // a write that fails is recorded, too
  oracle_.release(first, count);
  bool cut_off = first + count > std::min(model_.sectors, model_.next_sectors);
  if (!status.ok() && !faults_ && !cut_off)
    fail("write: {}", Error::describe_errno(status.error_number()));
}

Task<void> World::queue(unsigned operations) {
  for (unsigned i = 0; i < operations; ++i) {
    if (random_() % 12 == 0)
      (void)co_await user_.flush();
    else
      co_await write();
    if (random_() % 3 == 0) co_await context_.yield();
  }
}

Task<void> World::act(unsigned what, std::string name, std::string other) {
  Node& node = user_.node();
  if (what == 0)
    co_await add_bitmap(loop_, node, {name, uint64_t{512} << random_() % 4, true, false});
  if (what == 1) co_await clear_bitmap(loop_, node, name);
  if (what == 2) co_await remove_bitmap(loop_, node, name);
  if (what == 3) {
    std::vector<DirtyBitmapPtr> sources{lookup_bitmap(node, other)};
    co_await merge_bitmaps(loop_, node, name, std::move(sources));
  }
}

Task<void> World::command() {
  std::string name(1, static_cast<char>('a' + random_() % 3));
  std::string other(1, static_cast<char>('a' + random_() % 3));
  bool exists = model_.bitmaps.contains(name);
  unsigned what = exists ? 1 + static_cast<unsigned>(random_() % 3) : 0;
  if (what == 3 && !model_.bitmaps.contains(other)) co_return;
  Model::Bitmap before;
  if (exists) before = model_.bitmaps[name];
  if (what == 1) model_.bitmaps[name].in_command = true;
  if (what == 2) model_.bitmaps.erase(name);
  bool ok = true;
  try {
    co_await act(what, name, other);
  } catch (const Error& error) {
    if (!faults_) fail("command {} on {}: {}", what, name, error.text());
    ok = false;
  }
  if (what == 0 && ok) model_.bitmaps[name] = {++clock_, false};
  if (what == 1) model_.bitmaps[name] = {++clock_, false};
  if (what == 2 && !ok) model_.bitmaps[name] = before;
}

// Which of both sizes it has after a failure, the disk says.
Task<void> World::resize() {
  model_.next_sectors = 1 + random_() % kMostSectors;
  bool ok = true;
  try {
    co_await user_.truncate(model_.next_sectors * kSector);
  } catch (const Error& error) {
    if (!faults_) fail("resize to {}: {}", model_.next_sectors, error.text());
    ok = false;
  }
  uint64_t length = user_.length() / kSector;
  if (length != model_.next_sectors && (ok || length != model_.sectors))
    fail("{} sectors after changing from {} to {}", length, model_.sectors, model_.next_sectors);
  model_.sectors = model_.next_sectors = length;
}

Task<void> World::commands(unsigned operations) {
  for (unsigned i = 0; i < operations; ++i) {
    if (resizes_ && random_() % 4 == 0)
      co_await resize();
    else
      co_await command();
    for (uint64_t n = random_() % 20; n > 0; --n) co_await context_.yield();
  }
}

Task<void> World::all(unsigned operations) {
  TaskScope scope;
  scope.spawn(commands(operations / 6));
  for (unsigned i = 0; i < 3; ++i) scope.spawn(queue(operations));
  co_await scope.join();
}

void World::arm() {
  if (faults_) {
    disk().faults = {static_cast<unsigned>(random_() % 40), static_cast<unsigned>(random_() % 40),
                     static_cast<unsigned>(random_() % 20)};
    return;
  }
  disk().cut_after = disk().changes + 1 + random_() % 250;
  disk().on_cut = [this] { at_cut_ = model_; };
}

void World::verify_bitmap(const std::string& name, const Model& model,
                          std::span<const std::byte> data) {
  DirtyBitmapPtr bitmap = user_.node().bitmaps().find(name);
  if (!bitmap) fail("bitmap {} is not there", name);
  if (bitmap->is_inconsistent()) {
    bool resizing = model.sectors != model.next_sectors;
    if (!faults_ && !resizing) fail("bitmap {} is inconsistent", name);
    return;
  }
  if (bitmap->size() != data.size())
    fail("bitmap {} is of {} bytes, not {}", name, bitmap->size(), data.size());
  const Model::Bitmap& known = model.bitmaps.at(name);
  for (uint64_t sector = 0; sector < data.size() / kSector; ++sector) {
    Mark mark = 0;
    std::memcpy(&mark, data.data() + sector * kSector, sizeof mark);
    if (mark == 0) continue;
    uint64_t ended = model.ended.at(mark);
    bool excused = ended != kNever && (ended < known.cleared || known.in_command);
    if (!excused && !bitmap->is_dirty(sector * kSector))
      fail("bitmap {} (granularity {}) lacks sector {}, written by {}, ended {}, cleared {}", name,
           bitmap->granularity(), sector, mark, ended, known.cleared);
  }
}

void World::verify(const Model& model, bool whole) {
  uint64_t sectors = user_.length() / kSector;
  if (sectors != model.sectors && sectors != model.next_sectors)
    fail("{} sectors, where there were {}, or {}", sectors, model.sectors, model.next_sectors);
  std::vector<std::byte> data(sectors * kSector);
  Status status = wait(user_.preadv(0, IoVector::buffer(data.data(), data.size())));
  if (!status.ok()) fail("cannot read");
  std::string report;
  qcow2::CheckResult result = check_settled("opened again", report);
  if (result.leaks != 0 && whole) fail("{} leaks{}", result.leaks, report);
  for (const auto& [name, known] : model.bitmaps) verify_bitmap(name, model, data);
}

void World::run() {
  qapi::BlockdevCreateOptionsQcow2 options;
  options.file = file_named("disk");
  options.size = kSectors * kSector;
  options.cluster_size = uint64_t{1} << cluster_bits_;
  wait(qcow2::create(loop_, layer_, options));
  guard_header(options.cluster_size.value());
  disk().restore(disk().contents());
  open();
  wait(all(40));
  arm();
  wait(all(120));
  bool cut = disk().was_cut;
  disk().faults = {};
  disk().on_cut = nullptr;
  disk().cut_after = 0;
  wait(user_.close(loop_));

  if (cut) {
    disk().restore(std::move(disk().cut));
    model_ = std::move(at_cut_);
  }
  open();
  verify(model_, !cut && !faults_);
  wait(user_.close(loop_));
  open();
  verify(model_, !cut && !faults_);
  wait(user_.close(loop_));
}

void run_seed(uint64_t seed, Totals& totals) {
  std::string why;
  try {
    auto world = std::make_unique<World>(seed);
    world->run();
    return world->count(totals);
  } catch (const Failure& failure) {
    why = failure.text;
  } catch (const Error& error) {
    why = "error: " + error.text();
  }
  std::printf("seed %lu: %s\n", seed, why.c_str());
  std::fflush(stdout);
  std::_Exit(1);  // what was under way is not taken apart
}

}  // namespace
}  // namespace strata::sim

int main(int argc, char** argv) {
  uint64_t first = 1;
  uint64_t runs = 100;
  for (int i = 1; i + 1 < argc; i += 2) {
    std::string_view option = argv[i];
    uint64_t value = std::strtoull(argv[i + 1], nullptr, 10);
    if (option == "--seed") {
      first = value;
      runs = 1;
    } else if (option == "--runs") {
      runs = value;
    }
  }
  strata::sim::Totals totals;
  for (uint64_t seed = first; seed < first + runs; ++seed) strata::sim::run_seed(seed, totals);
  totals.print();
  return 0;
}
