// SPDX-License-Identifier: GPL-2.0-or-later
#include <algorithm>
#include <chrono>

#include "block/qcow2/image.h"
#include "block/qcow2/qcow2.h"
#include "tools/common/snapshot_list.h"
#include "tools/img/command.h"

namespace strata::tools {
namespace {

constexpr size_t kLongestName = 255;

struct Options {
  ImageChoice image{.flags = {.discard_unmap = true}};
  bool quiet = false;  // nothing is said anyway
  char action = 0;     // its letter; 0: list
  std::string name;
};

std::string parse(Words& words, Options& options) {
  auto action = [&options](char letter) -> Take {
    return [&options, letter](const std::string& name) {
      if (options.action != 0) throw UsageError{"Cannot mix '-l', '-a', '-c', '-d'"};
      options.action = letter;
      options.name = name;
    };
  };
  return words.parse_for_image({
      {"-l, --list", "list the snapshots (default)", action('l')},
      {"-c, --create NAME", "make one", action('c')},
      {"-a, --apply SNAPSHOT", "give the disk the contents it had then", action('a')},
      {"-d, --delete SNAPSHOT", "delete one", action('d')},
      format_option(options.image),
      image_options_option(options.image),
      force_share_option(options.image.flags),
      quiet_option(options.quiet),
  });
}

std::optional<size_t> find_by_name(const qcow2::Image* image, const std::string& name) {
  if (image == nullptr) return std::nullopt;
  const std::vector<qcow2::Snapshot>& all = image->snapshots();
  auto found = std::find_if(all.begin(), all.end(),
                            [&](const qcow2::Snapshot& one) { return one.name == name; });
  if (found == all.end()) return std::nullopt;
  return static_cast<size_t>(found - all.begin());
}

Task<void> create(qcow2::Image* image, std::string name) {
  if (image == nullptr) throw Error::from_errno(ENOTSUP, "Could not create snapshot");
  qcow2::Snapshot snapshot;
  snapshot.name = name.substr(0, kLongestName);
  snapshot.icount = 0;
  auto now = std::chrono::system_clock::now().time_since_epoch();
  auto seconds = std::chrono::duration_cast<std::chrono::seconds>(now);
  snapshot.date_seconds = static_cast<uint32_t>(seconds.count());
  auto rest = std::chrono::duration_cast<std::chrono::microseconds>(now - seconds);
  snapshot.date_nanoseconds = static_cast<uint32_t>(rest.count() * 1000);
  co_await image->create_snapshot(std::move(snapshot));
}

// An id, or else a name.
Task<void> revert(qcow2::Image* image, const std::string& which) {
  if (image == nullptr) throw Error("Block driver does not support snapshots");
  if (!image->node().bitmaps().empty()) throw Error("Device has active dirty bitmaps");
  if (image->has_data_file()) throw Error::from_errno(ENOTSUP, "Failed to load snapshot");
  std::optional<size_t> index = image->find_snapshot(which);
  if (!index) throw Error::from_errno(ENOENT, "Failed to load snapshot");
  try {
    image->check_snapshot(*index);
  } catch (const Error& error) {
    report(error);
    throw Error::from_errno(error.error_number(), "Failed to load snapshot");
  }
  co_await image->apply_snapshot(*index);
}

Task<void> remove(qcow2::Image* image, const std::string& name) {
  std::optional<size_t> index = find_by_name(image, name);
  if (!index) throw Error("snapshot not found");
  co_await image->delete_snapshot(*index);
}

}  // namespace

Task<int> run_snapshot(Images& images, Words& words) {
  Options options;
  std::string name = parse(words, options);
  bool list = options.action == 0 || options.action == 'l';
  options.image.flags.writable = !list;
  Backend* disk = co_await images.open(name, options.image);
  if (list) {
    fmt::print("{}", snapshot_list_text(disk->node().driver().snapshots()));
    co_return 0;
  }
  qcow2::Image* image = qcow2::image_of(disk->node());
  const char* what = "create";
  std::optional<Error> failed;
  try {
    if (options.action == 'c') {
      co_await create(image, options.name);
    } else if (options.action == 'a') {
      what = "apply";
      co_await revert(image, options.name);
    } else {
      what = "delete";
      co_await remove(image, options.name);
    }
  } catch (Error& error) {
    failed = std::move(error);
  }
  if (!failed) co_return 0;
  std::string why = failed->text();
  // Of a new snapshot only the system's word for it is told.
  if (options.action == 'c') why = Error::describe_errno(failed->error_number());
  log_error("Could not {} snapshot '{}': {}", what, options.name, why);
  co_return 1;
}

}  // namespace strata::tools
