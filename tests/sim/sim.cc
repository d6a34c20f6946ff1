// SPDX-License-Identifier: GPL-2.0-or-later
//
// qcow2 on a simulated disk, under seeded workloads.
//
//   sim [--seed N] [--runs COUNT] [--trouble none|faults|power] [--control] [--verbose]
//
// Each seed chooses an image, some queues of requests, and what goes wrong: nothing, failing
// requests, or the power, after some write. Afterwards the metadata must be sound and each sector
// must hold what the oracle allows. A seed that fails is printed; --seed N runs it again. With
// --control less is requested, and more done to the image: another size, snapshots, amending.
#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <string>

#include "block/qcow2/amend.h"
#include "block/qcow2/create.h"
#include "tests/sim/oracle.h"
#include "tests/sim/rig.h"

namespace strata::sim {
namespace {

enum class Trouble { none, faults, power };
enum class Cipher { none, aes, luks };

struct Plan {
  unsigned cluster_bits = 16;
  unsigned refcount_bits = 16;
  bool extended = false;
  bool version_2 = false;
  bool zstd = false;
  bool backing = false;
  bool small_cache = false;
  bool snapshots = false;
  bool resizes = false;
  bool amends = false;
  bool data_file = false;
  bool lazy = false;
  Cipher cipher = Cipher::none;
  uint64_t sectors = 4096;
  uint64_t base_sectors = 0;
  unsigned queues = 1;
  unsigned operations = 50;
  Trouble trouble = Trouble::none;
  const bool control;

  // `control`: much of what is not a request, above all another size, over a backing file.
  Plan(Random& random, bool control) : control(control) {
    auto chance = [&](unsigned percent) { return random() % 100 < percent; };
    const unsigned kBits[] = {9, 9, 10, 12, 12, 14, 14, 16, 16, 17};
    cluster_bits = kBits[random() % std::size(kBits)];
    version_2 = chance(15);
    if (!version_2) {
      refcount_bits = 1u << random() % 7;
      extended = cluster_bits >= 14 && chance(60);
      zstd = chance(30);
    }
    backing = chance(control ? 90 : 40);
    small_cache = chance(50);
    data_file = !version_2 && chance(15);
    lazy = !version_2 && chance(20);
    snapshots = refcount_bits >= 4 && !data_file && chance(40);
    resizes = chance(control ? 80 : 25);
    sectors = 1024 << random() % 4;
    base_sectors = chance(50) ? sectors : sectors / 2 + random() % sectors;
    queues = 1 + static_cast<unsigned>(random() % 6);
    operations = 20 + static_cast<unsigned>(random() % (control ? 20 : 120));
    amends = chance(20);
    const Trouble kTroubles[] = {Trouble::none, Trouble::faults, Trouble::power, Trouble::power};
    trouble = kTroubles[random() % 4];
    // Keys of LUKS take their time, however few rounds are asked for.
    if (!data_file && chance(15))
      cipher = !version_2 && !amends && chance(40) ? Cipher::luks : Cipher::aes;
  }

  std::string describe() const {
    const char* what[] = {"none", "faults", "power"};
    return fmt::format(
        "cluster 2^{} refcount {} {}{}{}{}{}{}{}{}{}{}{}sectors {} base {} queues {} operations {} "
        "trouble {}",
        cluster_bits, refcount_bits, extended ? "extended " : "", version_2 ? "v2 " : "",
        zstd ? "zstd " : "", backing ? "backing " : "", small_cache ? "small-cache " : "",
        snapshots ? "snapshots " : "", resizes ? "resizes " : "", amends ? "amends " : "",
        data_file ? "data-file " : "", lazy ? "lazy " : "",
        cipher == Cipher::luks  ? "luks "
        : cipher == Cipher::aes ? "aes "
                                : "",
        sectors, base_sectors, queues, operations, what[static_cast<int>(trouble)]);
  }
};

// One image, its host and its user.
class World : public Rig {
 public:
  World(uint64_t seed, std::optional<Trouble> trouble, bool control, bool verbose)
      : Rig(seed), plan_(random_, control), oracle_(plan_.sectors), verbose_(verbose) {
    if (trouble) plan_.trouble = *trouble;
    layer_.set_surroundings({.find_secret = [](std::string_view) { return "open sesame"; }});
    if (verbose_) std::printf("seed %lu: %s\n", seed, plan_.describe().c_str());
  }
  void run();

 private:
  struct Saved {
    std::string name;
    Oracle oracle;
  };
  // A change by the control plane that is under way, or has failed: both what was and what is to be
  // may be found.
  struct Pending {
    enum class Kind { nothing, create, apply, remove, resize, amend } kind = Kind::nothing;
    std::string name;
    std::optional<Oracle> after;
  };

  SimDisk& data() { return host_.disk("data"); }
  uint64_t sectors() const noexcept { return oracle_.sectors(); }
  void note(const std::string& line) const {
    if (verbose_) std::printf("  %s\n", line.c_str());
  }

  void make_base();
  // Version 2 cannot tell that what is preallocated is no data, and noise, yet.
  bool can_preallocate() const noexcept { return !plan_.version_2 || plan_.cipher == Cipher::none; }
  qapi::PreallocMode some_preallocation();
  void make_image();
  qapi::QCryptoBlockCreateOptions cipher_of_image() const;
  void guard_secrets();
  void open(bool writable = true);
  void close();
  void arm();
  void work(unsigned operations);
  Task<void> queue(unsigned operations);
  Task<void> all_queues(unsigned operations);
  Task<void> one_operation();
  Task<void> change(uint64_t first, uint64_t count, int kind);
  Task<void> verify(uint64_t first, uint64_t count);
  Task<void> flush();
  void control_round();
  void snapshot_round();
  void resize_round();
  void check_end_of_file();
  void amend_round();
  void empty_round();
  template <class Action>
  bool try_to(Pending pending, Action action);
  void settle_pending(const char* when);
  bool has_snapshot(const std::string& name);
  void check(bool leaks_allowed, const char* when);
  void verify_all(bool survived, const char* when);
  void verify_snapshots();
  void after_power_cut();

  Plan plan_;
  Oracle oracle_;
  std::optional<Oracle> oracle_at_cut_;
  std::vector<Mark> base_;
  std::vector<Saved> saved_;
  std::vector<Saved> saved_at_cut_;
  Pending pending_;
  Pending pending_at_cut_;
  bool verbose_;
  Mark next_mark_ = 1;
  uint64_t in_snapshot_ = 0;
  bool failed_change_ = false;
  bool may_leak_ = false;
};

void World::make_base() {
  if (!plan_.backing) return;
  std::vector<std::byte> bytes(plan_.base_sectors * kSector);
  for (uint64_t i = 0; i < plan_.base_sectors; ++i) {
    Mark mark = random_() % 3 == 0 ? 0 : next_mark_;
    fill_sector(bytes.data() + i * kSector, mark, i);
    base_.push_back(mark);
    if (i < plan_.sectors) oracle_.set(i, mark);
  }
  ++next_mark_;
  host_.disk("base").restore(std::move(bytes));
}

qapi::PreallocMode World::some_preallocation() {
  constexpr qapi::PreallocMode kModes[] = {qapi::PreallocMode::metadata, qapi::PreallocMode::falloc,
                                           qapi::PreallocMode::full};
  return kModes[random_() % std::size(kModes)];
}

void World::make_image() {
  qapi::BlockdevCreateOptionsQcow2 options;
  options.file = file_named("disk");
  options.size = plan_.sectors * kSector;
  options.cluster_size = uint64_t{1} << plan_.cluster_bits;
  options.refcount_bits = plan_.refcount_bits;
  if (plan_.version_2) options.version = qapi::BlockdevQcow2Version::v2;
  if (plan_.extended) options.extended_l2 = true;
  if (plan_.zstd) options.compression_type = qapi::Qcow2CompressionType::zstd;
  if (plan_.lazy) options.lazy_refcounts = true;
  if (plan_.data_file) options.data_file = file_named("data");
  if (plan_.backing) {
    options.backing_file = "base";
    options.backing_fmt = qapi::BlockdevDriver::raw;
  } else if (random_() % 5 == 0 && can_preallocate()) {
    options.preallocation = some_preallocation();
  }
  if (plan_.cipher != Cipher::none) options.encrypt = cipher_of_image();
  wait(qcow2::create(loop_, layer_, options));
  guard_header(uint64_t{1} << plan_.cluster_bits);
  if (plan_.cipher != Cipher::none) guard_secrets();
}

qapi::QCryptoBlockCreateOptions World::cipher_of_image() const {
  qapi::QCryptoBlockCreateOptions options;
  if (plan_.cipher == Cipher::aes) {
    options.select(qapi::QCryptoBlockFormat::qcow);
    options.get_if<qapi::QCryptoBlockOptionsQCow>()->key_secret = "key";
    return options;
  }
  options.select(qapi::QCryptoBlockFormat::luks);
  auto& luks = *options.get_if<qapi::QCryptoBlockCreateOptionsLUKS>();
  luks.key_secret = "key";
  luks.cipher_alg = qapi::QCryptoCipherAlgo::aes_128;
  luks.cipher_mode = qapi::QCryptoCipherMode::cbc;
  luks.iter_time = 1;
  return options;
}

// What the guest wrote never gets to the file as it is.
void World::guard_secrets() {
  disk().on_change = [this, header = std::move(disk().on_change)](uint64_t offset,
                                                                  ConstBytes bytes) {
    header(offset, bytes);
    std::array<std::byte, kSector> plain;
    for (size_t at = 0; at + kSector <= bytes.size(); at += kSector) {
      Mark mark = 0;
      uint64_t second = 0;
      std::memcpy(&mark, bytes.data() + at, sizeof mark);
      std::memcpy(&second, bytes.data() + at + sizeof mark, sizeof second);
      if (mark == 0 || mark >= next_mark_) continue;
      fill_sector(plain.data(), mark, second / kMarkStride);
      if (std::memcmp(plain.data(), bytes.data() + at, kSector) == 0)
        overwritten_ =
            fmt::format("what was written as {} is in clear text at {}", mark, offset + at);
    }
  };
}

void World::open(bool writable) {
  qapi::BlockdevOptions options;
  options.select(qapi::BlockdevDriver::qcow2);
  options.read_only = !writable;
  options.discard = qapi::BlockdevDiscardOptions::unmap;
  auto& image = *options.get_if<qapi::BlockdevOptionsQcow2>();
  image.file = file_named("disk");
  if (plan_.small_cache) {
    image.l2_cache_entry_size = 512;
    image.l2_cache_size = 4096;
  }
  if (random_() % 2 == 0) image.pass_discard_other = true;
  if (plan_.cipher == Cipher::aes) {
    image.encrypt.emplace().select(qapi::BlockdevQcow2EncryptionFormat::aes);
    image.encrypt->get_if<qapi::QCryptoBlockOptionsQCow>()->key_secret = "key";
  } else if (plan_.cipher == Cipher::luks) {
    image.encrypt.emplace().select(qapi::BlockdevQcow2EncryptionFormat::luks);
    image.encrypt->get_if<qapi::BlockdevQcow2EncryptionLUKS>()->key_secret = "key";
  }
  NodePtr node = wait(open_node(loop_, layer_, std::move(options)));
  PermissionSet needed = Permission::consistent_read;
  if (writable) needed |= PermissionSet{Permission::write, Permission::resize};
  user_.attach(loop_, std::move(node), {needed, {}});
}

void World::close() {
  wait(user_.close(loop_));
}

Mark mark_of(const std::byte* sector) noexcept {
  Mark mark = 0;
  std::memcpy(&mark, sector, sizeof mark);
  return mark;
}

template <class Marks>
std::string listed(const Marks& marks) {
  std::string all;
  for (Mark mark : marks) all += fmt::format(" {}", mark);
  return all;
}

Task<void> World::verify(uint64_t first, uint64_t count) {
  if (!oracle_.try_begin(first, count)) co_return;
  std::vector<std::byte> data(count * kSector);
  Status status =
      co_await user_.preadv(first * kSector, IoVector::buffer(data.data(), data.size()));
  oracle_.release(first, count);
  if (!status.ok()) {
    if (plan_.trouble == Trouble::faults) co_return;
    fail("read of {}+{}: {}", first, count, Error::describe_errno(status.error_number()));
  }
  for (uint64_t i = 0; i < count; ++i) {
    const std::byte* sector = data.data() + i * kSector;
    if (oracle_.may_be(first + i, sector)) continue;
    fail("read of {}+{}: sector {} holds mark {}, allowed:{}", first, count, first + i,
         mark_of(sector), listed(oracle_.marks(first + i)));
  }
}

Task<void> World::flush() {
  Oracle::Flush flush = oracle_.begin_flush();
  Status status = co_await user_.flush();
  if (status.ok())
    oracle_.end_flush(flush);
  else if (plan_.trouble != Trouble::faults)
    fail("flush: {}", Error::describe_errno(status.error_number()));
}

// kind 0: write, 1: compressed, 2: zeroes, 3: zeroes that unmap, 4: discard
Task<void> World::change(uint64_t first, uint64_t count, int kind) {
  if (!oracle_.try_begin(first, count)) co_return;
  Mark mark = kind <= 1 ? next_mark_++ : 0;
  std::vector<std::byte> data(kind <= 1 ? count * kSector : 0);
  for (uint64_t i = 0; i < data.size() / kSector; ++i)
    fill_sector(data.data() + i * kSector, mark, first + i);
  note(fmt::format("change {} {}+{} mark {}", kind, first, count, mark));
  oracle_.issue(first, count, mark);
  Status status;
  IoVector from = IoVector::buffer(data.data(), data.size());
  if (kind == 0) status = co_await user_.pwritev(first * kSector, from);
  if (kind == 1) status = co_await user_.pwritev(first * kSector, from, WriteFlag::compressed);
  if (kind == 2) status = co_await user_.pwrite_zeroes(first * kSector, count * kSector);
  if (kind == 3)
    status = co_await user_.pwrite_zeroes(first * kSector, count * kSector, WriteFlag::may_unmap);
  if (kind == 4) status = co_await user_.pdiscard(first * kSector, count * kSector);
  oracle_.end(first, count, mark, status.ok());
  if (status.ok()) co_return;
  failed_change_ = true;
  if (plan_.trouble != Trouble::faults)
    fail("change {} of {}+{}: {}", kind, first, count,
         Error::describe_errno(status.error_number()));
}

Task<void> World::one_operation() {
  uint64_t cluster = std::max<uint64_t>(1, (uint64_t{1} << plan_.cluster_bits) / kSector);
  uint64_t most = random_() % 4 == 0 ? 4 * cluster + 8 : 16;
  uint64_t first = random_() % sectors();
  // Some places are more popular than others.
  if (random_() % 2 == 0) first = random_() % std::min(sectors(), 4 * cluster);
  uint64_t count = std::min(sectors() - first, 1 + random_() % most);
  unsigned what = static_cast<unsigned>(random_() % 100);
  uint64_t aligned = first / cluster * cluster;
  uint64_t clusters = std::min(sectors() - aligned, cluster * (1 + random_() % 4));
  bool can_discard = !plan_.version_2 || !plan_.backing;
  bool packs = !plan_.data_file && plan_.cipher == Cipher::none;
  if (!packs && what >= 50 && what < 56) what = 0;  // nothing can be compressed there
  if (what < 50) co_return co_await change(first, count, 0);
  if (what < 56) co_return co_await change(aligned, std::min(clusters, cluster), 1);
  if (what < 62) co_return co_await change(first, count, 2);
  if (what < 68) co_return co_await change(aligned, clusters, 3);
  if (what < 74 && can_discard) co_return co_await change(aligned, clusters, 4);
  if (what < 90) co_return co_await verify(first, count);
  co_await flush();
}

Task<void> World::queue(unsigned operations) {
  for (unsigned i = 0; i < operations; ++i) {
    co_await one_operation();
    if (random_() % 3 == 0) co_await context_.yield();
  }
}

Task<void> World::all_queues(unsigned operations) {
  TaskScope scope;
  for (unsigned i = 0; i < plan_.queues; ++i) scope.spawn(queue(operations));
  co_await scope.join();
}

void World::arm() {
  SimDisk& target = disk();
  target.random = &random_;
  if (plan_.trouble == Trouble::faults) {
    target.faults = {5 + static_cast<unsigned>(random_() % 60),
                     5 + static_cast<unsigned>(random_() % 60),
                     static_cast<unsigned>(random_() % 40)};
    data().random = &random_;
    data().faults = target.faults;
  }
  if (plan_.trouble == Trouble::power) {
    uint64_t span = uint64_t{plan_.operations} * plan_.queues * 2;
    target.cut_after = target.changes + 1 + random_() % span;
    target.on_cut = [this] {
      oracle_at_cut_ = oracle_;
      saved_at_cut_ = saved_;
      pending_at_cut_ = pending_;
      data().cut = data().after_power_cut(random_);
    };
  }
}

void World::check(bool leaks_allowed, const char* when) {
  std::string report;
  qcow2::CheckResult result = check_settled(when, report);
  if (result.leaks != 0 && !leaks_allowed && !may_leak_)
    fail("{}: {} leaks{}", when, result.leaks, report);
  if (!event_.empty()) fail("{}: event {}", when, event_);
}

void World::verify_all(bool survived, const char* when) {
  std::vector<std::byte> data(sectors() * kSector);
  if (user_.length() != data.size())
    fail("{}: {} bytes, not {}", when, user_.length(), data.size());
  Status status = wait(user_.preadv(0, IoVector::buffer(data.data(), data.size())));
  if (!status.ok()) fail("{}: read: {}", when, Error::describe_errno(status.error_number()));
  for (uint64_t i = 0; i < sectors(); ++i) {
    const std::byte* sector = data.data() + i * kSector;
    bool good = survived ? oracle_.may_survive(i, sector) : oracle_.may_be(i, sector);
    if (good) {
      if (survived) oracle_.found(i, sector);
      continue;
    }
    fail("{}: sector {} holds mark {}, allowed:{}", when, i, mark_of(sector),
         listed(survived ? oracle_.durable_marks(i) : oracle_.marks(i)));
  }
}

bool World::has_snapshot(const std::string& name) {
  return qcow2::image_of(user_.node())->find_snapshot(name).has_value();
}

// False: it failed, as it may.
template <class Action>
bool World::try_to(Pending pending, Action action) {
  pending_ = std::move(pending);
  // They are few among all that is done: some have the cut to themselves.
  if (plan_.trouble == Trouble::power && !disk().was_cut && random_() % 4 < (plan_.control ? 2 : 1))
    disk().cut_after = disk().changes + 1 + random_() % (plan_.control ? 6 : 16);
  std::string why;
  try {
    action();
  } catch (const Error& error) {
    why = error.text();
  }
  if (why.empty()) {
    pending_ = {};
    return true;
  }
  note("failed: " + why);
  bool no_room = why.ends_with("Invalid argument");  // for so many references in a narrow refcount
  may_leak_ = may_leak_ || no_room;                  // what was allocated for the snapshot stays
  if (plan_.trouble != Trouble::faults && !no_room) fail("{}", why);
  return false;
}

// After a failure, or a power cut: finds out what has become of it.
void World::settle_pending(const char* when) {
  Pending pending = std::exchange(pending_, {});
  using Kind = Pending::Kind;
  bool there = !pending.name.empty() && has_snapshot(pending.name);
  if (pending.kind == Kind::create && there)
    saved_.push_back({pending.name, std::move(*pending.after)});
  if (pending.kind == Kind::remove && !there)
    std::erase_if(saved_, [&](const Saved& saved) { return saved.name == pending.name; });
  if (pending.kind == Kind::apply) {
    uint64_t now = user_.length() / kSector;
    if (now != oracle_.sectors() && now != pending.after->sectors())
      fail("{}: the disk has {} sectors", when, now);
    // Where the size differs it tells which of them is there: size and contents come at once.
    if (pending.after->sectors() == oracle_.sectors())
      oracle_.merge(*pending.after);
    else if (now != oracle_.sectors())
      oracle_ = *pending.after;
  }
  if (pending.kind == Kind::resize) {
    // What was cut off may be gone already, though the disk is still as large as it was. There what
    // is below shows.
    uint64_t now = user_.length() / kSector;
    if (now != oracle_.sectors() && now != pending.after->sectors())
      fail("{}: the disk has {} sectors", when, now);
    uint64_t least = std::min(oracle_.sectors(), pending.after->sectors());
    for (uint64_t i = least; i < std::min(now, oracle_.sectors()); ++i) {
      oracle_.allow(i, 0);
      if (i < base_.size()) oracle_.allow(i, base_[i]);
    }
    oracle_.resize(now);
  }
  for (const Saved& saved : saved_) {
    if (!has_snapshot(saved.name)) fail("{}: snapshot {} is gone", when, saved.name);
  }
}

void World::snapshot_round() {
  qcow2::Image* image = qcow2::image_of(user_.node());
  std::string name = fmt::format("s{}", ++in_snapshot_);
  unsigned what = static_cast<unsigned>(random_() % 3);
  using Kind = Pending::Kind;
  if (saved_.empty() || what == 0) {
    note("snapshot " + name);
    bool done = try_to({Kind::create, name, oracle_},
                       [&] { wait(image->create_snapshot({.name = name})); });
    if (done) saved_.push_back({name, oracle_});
    return;
  }
  size_t which = random_() % saved_.size();
  Saved saved = saved_[which];
  note(fmt::format("{} {}", what == 1 ? "apply" : "delete", saved.name));
  std::optional<size_t> index = image->find_snapshot(saved.name);
  if (!index) fail("snapshot {} is gone", saved.name);
  if (what == 1) {
    bool resizes = saved.oracle.sectors() != sectors();
    if (resizes && plan_.trouble == Trouble::faults) return;  // the node would not know its size
    bool done = try_to({Kind::apply, saved.name, saved.oracle},
                       [&] { wait(image->apply_snapshot(*index)); });
    if (done) oracle_ = saved.oracle;
    if (done && resizes) {
      close();
      open();
    }
  } else {
    bool done =
        try_to({Kind::remove, saved.name, {}}, [&] { wait(image->delete_snapshot(*index)); });
    if (done) saved_.erase(saved_.begin() + static_cast<long>(which));
  }
}

void World::resize_round() {
  if (plan_.version_2 && !saved_.empty()) return;  // there a snapshot is of the disk's size
  uint64_t now = 8 + random_() % (2 * plan_.sectors);
  TruncateOptions options;
  if (now > sectors() && random_() % 2 == 0 && can_preallocate())
    options.preallocation = some_preallocation();
  note(fmt::format("resize {} to {} {}", sectors(), now, qapi::to_string(options.preallocation)));
  Oracle after = oracle_;
  after.resize(now);
  bool shrinks = now < sectors();
  bool done = try_to({Pending::Kind::resize, "", after},
                     [&] { wait(user_.truncate(now * kSector, options)); });
  if (done) oracle_ = std::move(after);
  if (done && shrinks && plan_.trouble == Trouble::none) check_end_of_file();
}

// Nobody writes: the file of a disk that became smaller ends where what is used does.
void World::check_end_of_file() {
  std::string report;
  uint64_t length = disk().contents().size();
  uint64_t used = check_settled("after shrinking", report).image_end_offset;
  if (length > used) fail("after shrinking the file has {} bytes and uses {}", length, used);
}

// Another width of refcounts, another version, or lazy refcounts on and off.
void World::amend_round() {
  qcow2::Image* image = qcow2::image_of(user_.node());
  qcow2::Amendment wanted;
  unsigned what = static_cast<unsigned>(random_() % 3);
  if (what == 0) wanted.version = plan_.version_2 ? 3 : 2;
  if (what == 1) wanted.lazy_refcounts = random_() % 2 == 0;
  if (what == 2) wanted.refcount_bits = 1 << (plan_.snapshots ? 2 + random_() % 5 : random_() % 7);
  note(fmt::format("amend {}", what));
  pending_ = {Pending::Kind::amend, "", {}};
  std::string why;
  try {
    wait(qcow2::amend(*image, wanted, [](uint64_t, uint64_t) {}));
    wait(qcow2::finish_amend(*image, wanted, [](uint64_t, uint64_t) {}));
    pending_ = {};
  } catch (const Error& error) {
    note("failed: " + error.text());  // many images cannot be amended so
    if (plan_.trouble != Trouble::faults) pending_ = {};
  }
}

// As after a commit: what is below shows again.
void World::empty_round() {
  note("empty");
  Oracle after = oracle_;
  for (uint64_t i = 0; i < sectors(); ++i) {
    Mark mark = plan_.backing && i < base_.size() ? base_[i] : 0;
    after.issue(i, 1, mark);
    after.end(i, 1, mark, true);
  }
  bool done = try_to({Pending::Kind::apply, "", after}, [&] {
    Status status = wait(qcow2::image_of(user_.node())->make_empty());
    if (!status.ok()) throw Error::from_errno(status.error_number(), "Could not empty the image");
  });
  if (done) oracle_ = std::move(after);
}

// What is not a request: nobody else is there meanwhile.
void World::control_round() {
  std::vector<void (World::*)()> rounds;
  if (plan_.snapshots) rounds.push_back(&World::snapshot_round);
  if (plan_.resizes) rounds.push_back(&World::resize_round);
  if (plan_.amends) rounds.insert(rounds.end(), {&World::amend_round, &World::empty_round});
  (this->*rounds[random_() % rounds.size()])();
  plan_.version_2 = qcow2::image_of(user_.node())->header().version < 3;
  if (disk().was_cut) return;
  if (pending_.kind != Pending::Kind::nothing) return settle_pending("after a failure");
  if (plan_.trouble != Trouble::none) return;
  check(false, "after a control operation");
  verify_all(false, "after a control operation");
}

// Each in a node of its own.
void World::verify_snapshots() {
  for (const Saved& saved : saved_) {
    open(false);
    wait(qcow2::show_snapshot(user_.node(), saved.name));
    if (user_.length() != saved.oracle.sectors() * kSector)
      fail("snapshot {} has {} bytes", saved.name, user_.length());
    Oracle now = std::exchange(oracle_, saved.oracle);
    verify_all(false, ("snapshot " + saved.name).c_str());
    oracle_ = std::move(now);
    close();
  }
}

void World::after_power_cut() {
  disk().on_cut = nullptr;
  close();
  oracle_ = std::move(*oracle_at_cut_);
  saved_ = std::move(saved_at_cut_);
  pending_ = std::move(pending_at_cut_);
  disk().restore(std::move(disk().cut));
  data().restore(std::move(data().cut));
  disk().cut_after = 0;
  plan_.trouble = Trouble::none;
  event_.clear();
  open();
  plan_.version_2 = qcow2::image_of(user_.node())->header().version < 3;
  settle_pending("after the power cut");
  check(true, "after the power cut");
  verify_all(true, "after the power cut");
  oracle_.settle();
  wait(all_queues(plan_.operations / 4));
  check(true, "some time after the power cut");
  verify_all(false, "some time after the power cut");
  close();
  verify_snapshots();
}

void World::run() {
  make_base();
  make_image();
  disk().restore(disk().contents());
  data().restore(data().contents());
  open();
  check(false, "new");
  verify_all(false, "new");
  arm();
  int rounds = plan_.snapshots || plan_.resizes || plan_.amends ? 4 : 1;
  for (int round = 0; round < rounds && !disk().was_cut; ++round) {
    wait(all_queues(plan_.operations / static_cast<unsigned>(rounds)));
    if (rounds > 1 && !disk().was_cut) control_round();
  }
  disk().faults = data().faults = {};
  if (disk().was_cut) return after_power_cut();
  disk().cut_after = 0;
  Trouble trouble = std::exchange(plan_.trouble, Trouble::none);
  verify_all(false, "at the end");
  check(trouble == Trouble::faults, "at the end");
  close();
  open();
  check(trouble == Trouble::faults, "opened again");
  verify_all(false, "opened again");
  close();
  verify_snapshots();
}

bool run_seed(uint64_t seed, std::optional<Trouble> trouble, bool control, bool verbose,
              Totals& totals) {
  auto world = std::make_unique<World>(seed, trouble, control, verbose);
  std::string why;
  try {
    world->run();
    world->count(totals);
    return true;
  } catch (const Failure& failure) {
    why = failure.text;
  } catch (const Error& error) {
    why = "error: " + error.text();
  }
  std::printf("seed %lu failed: %s\n", seed, why.c_str());
  (void)world.release();  // its nodes are open: there is no decent end for it
  return false;
}

}  // namespace
}  // namespace strata::sim

int main(int argc, char** argv) {
  uint64_t seed = 1;
  uint64_t runs = 1;
  bool verbose = false;
  bool control = false;
  std::optional<strata::sim::Trouble> trouble;
  for (int i = 1; i < argc; ++i) {
    std::string word = argv[i];
    if (word == "--seed" && i + 1 < argc) seed = std::strtoull(argv[++i], nullptr, 10);
    if (word == "--runs" && i + 1 < argc) runs = std::strtoull(argv[++i], nullptr, 10);
    if (word == "--trouble" && i + 1 < argc) {
      std::string kind = argv[++i];
      trouble = kind == "none"     ? strata::sim::Trouble::none
                : kind == "faults" ? strata::sim::Trouble::faults
                                   : strata::sim::Trouble::power;
    }
    if (word == "--control") control = true;
    if (word == "--verbose") verbose = true;
  }
  strata::sim::Totals totals;
  for (uint64_t i = 0; i < runs; ++i) {
    if (strata::sim::run_seed(seed + i, trouble, control, verbose, totals)) continue;
    std::fflush(stdout);
    std::_Exit(1);
  }
  totals.print();
  return 0;
}
