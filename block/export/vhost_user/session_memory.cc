// SPDX-License-Identifier: GPL-2.0-or-later
//
// The guest's memory, the in-flight area and the dirty log.
#include <fcntl.h>
#include <sys/mman.h>

#include <algorithm>

#include "block/base/error.h"
#include "block/export/vhost_user/session.h"
#include "block/virtio/in_flight.h"

namespace strata::vhost_user {

Task<bool> Session::change_memory(const Message& message, Fds& fds) {
  switch (message.request) {
    case Request::set_mem_table:
      co_await set_mem_table(message.get<MemoryTable>(), fds);
      break;
    case Request::add_mem_reg:
      co_await add_region(message.get<virtio::RegionDescription>(), fds);
      break;
    case Request::rem_mem_reg:
      co_await remove_region(message.get<virtio::RegionDescription>());
      break;
    case Request::set_log_base:
      co_await set_log(message.get<LogArea>(), std::move(fds.front()));
      // The front end waits for this one in any case.
      co_await send(Reply(message.request).u64(0));
      co_return true;
    case Request::set_log_fd:
      co_await set_log_event(std::move(fds.front()));
      break;
    case Request::get_inflight_fd:
      co_return co_await make_in_flight_area(message.get<InFlightArea>());
    default:
      take_in_flight_area(message.get<InFlightArea>(), std::move(fds.front()));
  }
  co_return false;
}

// Rings stand still while their memory is exchanged, and nothing is in flight then.
Task<void> Session::set_memory(std::shared_ptr<const virtio::GuestMemory> memory) {
  co_await pause_all();
  memory_ = std::move(memory);
  co_await update_all();
}

Task<void> Session::set_mem_table(const MemoryTable& table, Fds& fds) {
  auto memory = std::make_shared<virtio::GuestMemory>();
  for (size_t i = 0; i < table.count; ++i) memory->add(table.regions[i], fds[i].get());
  region_fds_.clear();
  for (size_t i = 0; i < table.count && traits_.may_hand_over; ++i)
    region_fds_[table.regions[i].guest_address] = std::move(fds[i]);
  co_await set_memory(std::move(memory));
}

Task<void> Session::add_region(const virtio::RegionDescription& region, Fds& fds) {
  auto memory = std::make_shared<virtio::GuestMemory>(*memory_);
  memory->add(region, fds.front().get());
  if (traits_.may_hand_over) region_fds_[region.guest_address] = std::move(fds.front());
  co_await set_memory(std::move(memory));
}

Task<void> Session::remove_region(const virtio::RegionDescription& region) {
  auto memory = std::make_shared<virtio::GuestMemory>(*memory_);
  if (!memory->remove(region))
    throw Error("there is no memory region at guest address {:#x}", region.guest_address);
  region_fds_.erase(region.guest_address);
  co_await set_memory(std::move(memory));
}

Task<bool> Session::make_in_flight_area(const InFlightArea& wanted) {
  if (wanted.queues == 0 || wanted.queues > vrings_.size() || wanted.queue_size == 0 ||
      wanted.queue_size > virtio::kMostRingSize)
    throw Error("{} queues of size {}", wanted.queues, wanted.queue_size);
  if (std::ranges::any_of(vrings_, &Vring::running))
    throw Error("the in-flight area changes while rings run");
  bool packed = (features_ & bit(VIRTIO_F_RING_PACKED)) != 0;
  InFlightArea area = wanted;
  area.offset = 0;
  area.size = wanted.queues * virtio::in_flight_bytes(packed, wanted.queue_size);
  UniqueFd fd(::memfd_create("vhost-user-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd || ::ftruncate(fd.get(), static_cast<off_t>(area.size)) != 0 ||
      ::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) != 0)
    throw Error::from_errno(errno, "cannot make an in-flight area");
  in_flight_ = std::make_shared<const virtio::MappedFile>(fd.get(), 0, area.size);
  in_flight_area_ = area;
  co_await send(Reply(Request::get_inflight_fd).in_flight(area), fd.get());
  if (traits_.may_hand_over) in_flight_fd_ = std::move(fd);
  co_return true;
}

void Session::take_in_flight_area(const InFlightArea& area, UniqueFd fd) {
  if (area.queues == 0 || area.queues > vrings_.size() || area.queue_size == 0 ||
      area.queue_size > virtio::kMostRingSize)
    throw Error("{} queues of size {}", area.queues, area.queue_size);
  if (std::ranges::any_of(vrings_, &Vring::running))
    throw Error("the in-flight area changes while rings run");
  if (area.offset % alignof(virtio::QueueRegionSplit) != 0)
    throw Error("the in-flight area lies at offset {}, which is not aligned", area.offset);
  // Which layout it has is known when the rings start: at least the smaller one has to fit.
  if (area.size < area.queues * virtio::in_flight_bytes(false, area.queue_size))
    throw Error("{} bytes for {} queues of size {}", area.size, area.queues, area.queue_size);
  in_flight_ = std::make_shared<const virtio::MappedFile>(fd.get(), area.offset, area.size);
  in_flight_area_ = area;
  if (traits_.may_hand_over) in_flight_fd_ = std::move(fd);
}

Task<void> Session::set_log(const LogArea& area, UniqueFd fd) {
  log_ = std::make_shared<virtio::DirtyLog>(fd.get(), area.offset, area.size);
  log_area_ = area;
  if (traits_.may_hand_over) log_fd_ = std::move(fd);
  for (uint32_t index = 0; index < vrings_.size(); ++index) co_await update_logging(index);
}

Task<void> Session::set_log_event(UniqueFd fd) {
  log_event_ = checked_event(std::move(fd));
  for (uint32_t index = 0; index < vrings_.size(); ++index) co_await update_logging(index);
}

}  // namespace strata::vhost_user
