// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/filter.h"

#include "block/io/request.h"

namespace strata {

Task<void> FilterDriver::open_filtered(OpenContext& context, const qapi::BlockdevRef& child,
                                       std::string name) {
  child_ = co_await context.open_child(child, std::move(name), kFilterRoles);
}

Task<Status> FilterDriver::preadv(uint64_t offset, IoVector into, ReadFlags flags) {
  return io::preadv(*child_, offset, into, flags);
}

Task<Status> FilterDriver::pwritev(uint64_t offset, IoVector from, WriteFlags flags) {
  return io::pwritev(*child_, offset, from, flags);
}

Task<Status> FilterDriver::pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) {
  return io::pwrite_zeroes(*child_, offset, bytes, flags);
}

Task<Status> FilterDriver::pdiscard(uint64_t offset, uint64_t bytes) {
  return io::pdiscard(*child_, offset, bytes);
}

Task<Result<uint64_t>> FilterDriver::length() {
  return Task<Result<uint64_t>>::ready(below().length());
}

}  // namespace strata
