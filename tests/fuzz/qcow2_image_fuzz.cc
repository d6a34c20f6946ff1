// SPDX-License-Identifier: GPL-2.0-or-later
//
// A whole image out of anywhere: it is opened, or refused; mapped, read, written, snapshotted,
// resized, amended, checked and mended. Whatever it is, that ends, and what a repair calls sound
// can be opened, and stays sound while it is used.
//
// The first bytes of the input choose what is done, the rest is the image.
#include <cstdint>
#include <cstring>

#include "block/base/error.h"
#include "block/drivers/raw/raw.h"
#include "block/graph/bitmaps.h"
#include "block/graph/open.h"
#include "block/io/backend.h"
#include "block/qcow2/check.h"
#include "block/qcow2/qcow2.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/qcow2_image_input.h"
#include "tests/fuzz/qcow2_roles.h"
#include "tests/sim/sim_disk.h"

using namespace strata;
using fuzz::require;

namespace {

constexpr uint64_t kMostLength = 1 << 30;  // of a disk that is written to all over
constexpr unsigned kMostExtents = 64;      // of a map

qapi::BlockdevOptions image_options(bool writable, bool with_backing) {
  qapi::BlockdevOptions file;
  file.select(qapi::BlockdevDriver::file);
  file.get_if<qapi::BlockdevOptionsFile>()->filename = "disk";
  qapi::BlockdevOptions options;
  options.select(qapi::BlockdevDriver::qcow2);
  options.read_only = !writable;
  options.discard = qapi::BlockdevDiscardOptions::unmap;
  auto& image = *options.get_if<qapi::BlockdevOptionsQcow2>();
  image.file = qapi::Box<qapi::BlockdevOptions>(std::move(file));
  if (!with_backing) image.backing = qapi::BlockdevRefOrNull{qapi::Null()};
  return options;
}

class Session {
 public:
  Session(const uint8_t* control, const uint8_t* bytes, size_t size) : control_(control) {
    host_.yields = 0;
    host_.most_bytes = 4 * fuzz::kMostImageBytes;
    std::vector<std::byte> contents(size);
    std::memcpy(contents.data(), bytes, size);
    host_.disk("disk").restore(std::move(contents));
    if (chosen(fuzz::ImageChoice::bitmaps_ahead)) layer_.keep_bitmaps_ahead();
  }

  void run() {
    bool writable = chosen(fuzz::ImageChoice::writable);
    if (chosen(fuzz::ImageChoice::check_first)) check(writable);
    if (open(writable, false)) {
      use(writable);
      close();
    }
    if (chosen(fuzz::ImageChoice::mend)) mend();
  }

 private:
  bool chosen(fuzz::ImageChoice choice) const noexcept {
    return (control_[0] & static_cast<uint8_t>(choice)) != 0;
  }
  template <class T>
  T wait(Task<T> task) {
    return context_.run_to_completion(std::move(task));
  }
  qcow2::Image& image() const noexcept { return *qcow2::image_of(user_.node()); }

  bool open(bool writable, bool to_check) {
    bool with_backing = chosen(fuzz::ImageChoice::with_backing) && !to_check;
    try {
      NodePtr node = wait(
          open_node(loop_, layer_, image_options(writable, with_backing), {.to_check = to_check}));
      PermissionSet needed = Permission::consistent_read;
      if (writable) needed |= PermissionSet{Permission::write, Permission::resize};
      user_.attach(loop_, std::move(node), {needed, kAllPermissions});
      return true;
    } catch (const Error&) {
      return false;
    }
  }
  void close() { wait(user_.close(loop_)); }

  Result<qcow2::CheckResult> check_open(qcow2::CheckFix fix) {
    return wait(qcow2::check_image(image(), fix, [](qcow2::CheckSays, const std::string&) {}));
  }
  static bool sound(const Result<qcow2::CheckResult>& result) {
    return result && result->corruptions == 0 && result->check_errors == 0;
  }

  void check(bool writable) {
    if (!open(writable, true)) return;
    (void)check_open({.leaks = writable});
    close();
  }

  // Whether the image is sound. What a repair says of it is so, and there is nothing left to mend.
  bool mend_open() {
    constexpr qcow2::CheckFix kAll{.leaks = true, .errors = true};
    auto nobody = [](qcow2::CheckSays, const std::string&) {};
    auto repair = wait(qcow2::repair_image(image(), kAll, nobody));
    if (!repair || !sound(repair->mended)) return false;
    require(repair->mended.leaks == 0);
    require(!repair->now || repair->now->found_nothing());
    auto look = check_open({});
    require(look && look->found_nothing());
    auto again = check_open(kAll);
    require(again && again->found_nothing() && !again->mended_something());
    return true;
  }

  // What is mended stays so.
  void mend() {
    if (!open(true, true)) return;
    bool mended = mend_open();
    bool plain = image().header().crypt_method == 0 && !image().has_data_file() &&
                 !chosen(fuzz::ImageChoice::with_backing);
    close();
    if (!mended) return;
    bool opened = open(true, false);
    require(opened || !plain);
    if (!opened) return;
    bool entangled = fuzz::Roles(host_.disk("disk").contents()).entangled();
    use(true);
    close();
    require(open(false, true));
    // Where the disk was full at the end, lazy refcounts may still have to follow.
    if (entangled || image().header().has(qcow2::kIncompatibleDirty))
      (void)check_open({});
    else
      require_no_harm();
    close();
  }

  // Nothing is wrong but flags that could be set. Where two entries of the disk share a cluster and
  // one of them lets go, nobody knows of the other, whose next write takes a new cluster
  // needlessly.
  void require_no_harm() {
    uint64_t flags = 0;
    auto count_flags = [&](qcow2::CheckSays, const std::string& line) {
      flags += line.starts_with("ERROR OFLAG_COPIED") && line.ends_with(" refcount=1") ? 1 : 0;
    };
    auto result = wait(qcow2::check_image(image(), {}, count_flags));
    require(result && result->check_errors == 0 && result->corruptions == flags);
  }

  void use(bool writable) {
    for (size_t i = 1; i < fuzz::kImageControlBytes; ++i) {
      auto step = static_cast<fuzz::ImageStep>(control_[i] % fuzz::kImageSteps);
      unsigned place = control_[i] / fuzz::kImageSteps;
      if (step >= fuzz::ImageStep::create_snapshot)
        control_plane(step, place, writable);
      else if (writable || step <= fuzz::ImageStep::map)
        request(step, place + static_cast<unsigned>(i));
    }
  }

  void request(fuzz::ImageStep step, unsigned place) {
    uint64_t length = std::min(user_.length(), kMostLength);
    if (length == 0) return;
    uint64_t offset = place % 16 * length / 16 / 512 * 512;
    uint64_t bytes = std::min<uint64_t>(length - offset, 512 << place % 8);
    std::vector<std::byte> data(bytes, std::byte{0xa5});
    IoVector vector = IoVector::buffer(data.data(), data.size());
    using enum fuzz::ImageStep;
    if (step == read) (void)wait(user_.preadv(offset, vector));
    if (step == map) map_all();
    if (step == write) (void)wait(user_.pwritev(offset, vector));
    if (step == write_compressed) (void)wait(user_.pwritev(offset, vector, WriteFlag::compressed));
    if (step == zero) (void)wait(user_.pwrite_zeroes(offset, bytes));
    if (step == zero_and_unmap)
      (void)wait(user_.pwrite_zeroes(offset, bytes, WriteFlag::may_unmap));
    if (step == discard) (void)wait(user_.pdiscard(offset, bytes));
    if (step == flush) (void)wait(user_.flush());
  }

  void map_all() {
    uint64_t at = 0;
    for (unsigned i = 0; i < kMostExtents && at < user_.length(); ++i) {
      auto status = wait(user_.block_status(at, user_.length() - at));
      if (!status) return;
      uint64_t bytes = status->status.bytes;
      require(bytes != 0 && bytes <= user_.length() - at);
      at += bytes;
    }
  }

  void control_plane(fuzz::ImageStep step, unsigned place, bool writable) {
    try {
      if (writable)
        change(step, place);
      else if (step == fuzz::ImageStep::apply_snapshot && !image().snapshots().empty())
        wait(image().show_snapshot(place % image().snapshots().size()));
    } catch (const Error&) {
    }
  }

  void change(fuzz::ImageStep step, unsigned place) {
    using enum fuzz::ImageStep;
    size_t snapshots = image().snapshots().size();
    if (step == create_snapshot) wait(image().create_snapshot({.name = "s"}));
    if (step == apply_snapshot && snapshots != 0) {
      wait(image().apply_snapshot(place % snapshots));
      wait(user_.node().refresh_length());
    }
    if (step == delete_snapshot && snapshots != 0) wait(image().delete_snapshot(place % snapshots));
    if (step == grow) {
      TruncateOptions how;
      if (place % 4 == 1) how.preallocation = qapi::PreallocMode::metadata;
      wait(user_.truncate(user_.length() + (uint64_t{512} << place), how));
    }
    if (step == shrink) wait(user_.truncate(user_.length() / 1024 * 512));
    if (step == change_bitmaps) change_bitmap(place);
    if (step == amend) change_format(place);
    if (step == make_empty) (void)wait(image().make_empty());
  }

  void change_bitmap(unsigned place) {
    if (place % 4 == 0) return wait(remove_bitmap(loop_, user_.node(), "b"));
    if (place % 4 == 1) return wait(clear_bitmap(loop_, user_.node(), "b"));
    wait(add_bitmap(loop_, user_.node(), {"b", uint64_t{512} << place, true, false}));
  }

  void change_format(unsigned place) {
    qcow2::Amendment amendment;
    if (place < 8)
      amendment.refcount_bits = int64_t{1} << place % 7;
    else
      amendment.version = 2 + place % 2;
    const auto nobody = [](uint64_t, uint64_t) {};
    wait(qcow2::amend(image(), amendment, nobody));
    wait(qcow2::finish_amend(image(), amendment, nobody));
  }

  const uint8_t* control_;
  sim::Random random_{1};
  sim::SimHost host_{random_};
  AioContext context_{"main"};
  MainLoop loop_{context_};
  const DriverDescriptor* drivers_[3]{&host_, &kRawDriver, &kQcow2Driver};
  BlockLayer layer_{loop_, drivers_, [](std::string_view, boost::json::object) {}};
  Backend user_{layer_};
};

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  if (size < fuzz::kImageControlBytes) return 0;
  if (size > fuzz::kMostImageBytes + fuzz::kImageControlBytes) return 0;
  Session(data, data + fuzz::kImageControlBytes, size - fuzz::kImageControlBytes).run();
  return 0;
}
