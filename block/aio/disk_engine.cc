// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/disk_engine.h"

#include "block/aio/linux_aio_engine.h"
#include "block/aio/uring_engine.h"
#include "block/base/error.h"

namespace strata {

std::string_view to_string(DiskEngine engine) noexcept {
  switch (engine) {
    case DiskEngine::native:
      return "native";
    case DiskEngine::io_uring:
      return "io_uring";
    default:
      return "threads";
  }
}

EngineSupport EngineSupport::probe() noexcept {
  return {.native = LinuxAioEngine::probe(), .io_uring = UringEngine::probe()};
}

DiskEngine choose_engine(std::optional<DiskEngine> named, bool direct,
                         const EngineSupport& support) {
  if (!named) {
    if (support.io_uring == 0) return DiskEngine::io_uring;
    return direct && support.native == 0 ? DiskEngine::native : DiskEngine::threads;
  }
  switch (*named) {
    case DiskEngine::native:
      if (!direct)
        throw Error(
            "aio=native was specified, but it requires cache.direct=on, which was not specified.");
      if (support.native != 0)
        throw Error::from_errno(support.native,
                                "Unable to use native AIO: failed to create linux AIO context");
      break;
    case DiskEngine::io_uring:
      if (support.io_uring != 0)
        throw Error::from_errno(support.io_uring,
                                "Unable to use io_uring: failed to init linux io_uring ring");
      break;
    case DiskEngine::threads:
      break;
  }
  return *named;
}

DiskEngine choose_engine(std::optional<DiskEngine> named, bool direct) {
  EngineSupport support;
  if (!named || named == DiskEngine::io_uring) support.io_uring = UringEngine::probe();
  bool second_best = !named && direct && support.io_uring != 0;
  if (named == DiskEngine::native || second_best) support.native = LinuxAioEngine::probe();
  return choose_engine(named, direct, support);
}

}  // namespace strata
