// SPDX-License-Identifier: GPL-2.0-or-later
//
// A whole image out of anywhere: it is opened, or refused; read, written, snapshotted, resized,
// checked and mended. Whatever it is, that ends, and what a repair calls sound stays sound.
//
// The first bytes of the input choose what is done, the rest is the image.
#include <cstdint>
#include <cstdlib>
#include <cstring>

#include "block/base/error.h"
#include "block/drivers/raw/raw.h"
#include "block/graph/open.h"
#include "block/io/backend.h"
#include "block/qcow2/check.h"
#include "block/qcow2/qcow2.h"
#include "tests/sim/sim_disk.h"

using namespace strata;

namespace {

constexpr size_t kControlBytes = 8;
constexpr size_t kMostBytes = 1 << 20;
constexpr uint64_t kMostLength = 1 << 30;  // of a disk that is written to all over

qapi::BlockdevOptions image_options(bool writable) {
  qapi::BlockdevOptions file;
  file.select(qapi::BlockdevDriver::file);
  file.get_if<qapi::BlockdevOptionsFile>()->filename = "disk";
  qapi::BlockdevOptions options;
  options.select(qapi::BlockdevDriver::qcow2);
  options.read_only = !writable;
  options.discard = qapi::BlockdevDiscardOptions::unmap;
  auto& image = *options.get_if<qapi::BlockdevOptionsQcow2>();
  image.file = qapi::Box<qapi::BlockdevOptions>(std::move(file));
  image.backing = qapi::BlockdevRefOrNull{qapi::Null()};
  return options;
}

class Session {
 public:
  Session(const uint8_t* control, const uint8_t* bytes, size_t size) {
    std::memcpy(control_, control, kControlBytes);
    host_.yields = 0;
    host_.disk("disk").most_bytes = 4 * kMostBytes;
    std::vector<std::byte> contents(size);
    std::memcpy(contents.data(), bytes, size);
    host_.disk("disk").restore(std::move(contents));
  }

  void run() {
    bool writable = (control_[0] & 1) != 0;
    if ((control_[0] & 2) != 0) check(writable);
    if (!open(writable, false)) return;
    use(writable);
    close();
    if ((control_[0] & 4) != 0) mend();
  }

 private:
  template <class T>
  T wait(Task<T> task) {
    return context_.run_to_completion(std::move(task));
  }

  bool open(bool writable, bool to_check) {
    try {
      NodePtr node = wait(open_node(loop_, layer_, image_options(writable), to_check));
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
    qcow2::Image* image = qcow2::image_of(user_.node());
    return wait(qcow2::check_image(*image, fix, [](qcow2::CheckSays, const std::string&) {}));
  }

  void check(bool writable) {
    if (!open(writable, true)) return;
    (void)check_open({.leaks = writable});
    close();
  }

  // What is mended stays so.
  void mend() {
    if (!open(true, true)) return;
    Result<qcow2::CheckResult> mended = check_open({.leaks = true, .errors = true});
    Result<qcow2::CheckResult> again = check_open({});
    bool sound = mended && mended->corruptions == 0 && mended->check_errors == 0;
    if (sound && (!again || again->corruptions != 0)) std::abort();
    close();
  }

  void use(bool writable) {
    uint64_t length = std::min(user_.length(), kMostLength);
    for (size_t i = 1; i < kControlBytes; ++i) {
      uint64_t offset = length == 0 ? 0 : control_[i] * length / 256 / 512 * 512;
      uint64_t bytes = std::min<uint64_t>(length - offset, 512 << control_[i] % 8);
      if (bytes == 0) continue;
      request(writable ? control_[i] / 8 % 8 : 0, offset, bytes);
      if (writable && control_[i] % 32 == 31) control_plane(control_[i] / 32);
    }
  }

  void request(int what, uint64_t offset, uint64_t bytes) {
    std::vector<std::byte> data(bytes, std::byte{0xa5});
    IoVector vector = IoVector::buffer(data.data(), data.size());
    if (what < 2) (void)wait(user_.preadv(offset, vector));
    if (what == 2) (void)wait(user_.block_status(offset, bytes));
    if (what == 3 || what == 4) (void)wait(user_.pwritev(offset, vector));
    if (what == 5) (void)wait(user_.pwrite_zeroes(offset, bytes, WriteFlag::may_unmap));
    if (what == 6) (void)wait(user_.pdiscard(offset, bytes));
    if (what == 7) (void)wait(user_.flush());
  }

  void control_plane(int what) {
    qcow2::Image* image = qcow2::image_of(user_.node());
    try {
      if (what < 3) wait(image->create_snapshot({.name = "s"}));
      if (what == 3 && !image->snapshots().empty()) wait(image->apply_snapshot(0));
      if (what == 4 && !image->snapshots().empty()) wait(image->delete_snapshot(0));
      if (what == 5) wait(user_.truncate(user_.length() + 65536));
      if (what == 6) wait(user_.truncate(user_.length() / 1024 * 512));
    } catch (const Error&) {
    }
  }

  uint8_t control_[kControlBytes];
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
  if (size < kControlBytes || size > kMostBytes + kControlBytes) return 0;
  Session(data, data + kControlBytes, size - kControlBytes).run();
  return 0;
}
