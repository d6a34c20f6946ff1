// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/aio/uring_engine.h"

#include <algorithm>
#include <array>
#include <cassert>
#include <cerrno>

#include "block/aio/host_disk.h"

namespace strata {
namespace {

constexpr unsigned kSubmissionEntries = 256;
constexpr unsigned kCompletionEntries = 4096;  // and so the most in flight: none can be lost
constexpr size_t kRegisteredFiles = 1024;      // descriptors above go unregistered

// The best first; each works on older kernels than the one before.
constexpr std::array<unsigned, 3> kSetupFlags{
    // 6.1: completions are prepared when we look for them, not whenever the kernel likes.
    IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL |
        IORING_SETUP_SINGLE_ISSUER | IORING_SETUP_DEFER_TASKRUN | IORING_SETUP_TASKRUN_FLAG,
    // 5.19: no interrupt to tell us of a completion.
    IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP | IORING_SETUP_SUBMIT_ALL | IORING_SETUP_COOP_TASKRUN |
        IORING_SETUP_TASKRUN_FLAG,
    IORING_SETUP_CQSIZE | IORING_SETUP_CLAMP,
};

int set_up(io_uring& ring, unsigned entries, unsigned completions) noexcept {
  int error = 0;
  for (unsigned flags : kSetupFlags) {
    io_uring_params params{};
    params.flags = flags;
    params.cq_entries = completions;
    error = io_uring_queue_init_params(entries, &ring, &params);
    if (error != -EINVAL) break;
  }
  return error;
}

}  // namespace

void UringFiles::change(int fd, bool drop) noexcept {
  std::lock_guard lock(mutex_);
  if (context_ == nullptr) return;
  changes_.push_back({fd, drop});
  any_changes_.store(true, std::memory_order_seq_cst);
  context_->poke();
}

int UringEngine::probe() noexcept {
  static std::atomic<bool> works{
      false};  // once; a ring that cannot be had later is made do without
  if (works.load(std::memory_order_relaxed)) return 0;
  io_uring ring{};
  int error = set_up(ring, 4, 8);
  if (error < 0) return -error;
  io_uring_queue_exit(&ring);
  works.store(true, std::memory_order_relaxed);
  return 0;
}

UringEngine::UringEngine(AioContext& context)
    : context_(context), thread_(std::this_thread::get_id()) {
  if (set_up(ring_, kSubmissionEntries, kCompletionEntries) < 0) return;
  if (io_uring_register_eventfd(&ring_, context.wake_fd()) < 0) {
    io_uring_queue_exit(&ring_);
    return;
  }
  usable_ = true;
  io_uring_cq_eventfd_toggle(&ring_, false);
  io_uring_register_ring_fd(&ring_);
  limit_workers(0);
  if (io_uring_register_files_sparse(&ring_, kRegisteredFiles) == 0) {
    registered_.resize(kRegisteredFiles);
    files_ = std::make_shared<UringFiles>(context);
    files_->changes_.reserve(kRegisteredFiles);
    may_register_ = true;
  }
  context_.add_poll_source(*this);
}

UringEngine::~UringEngine() {
  if (!usable_) return;
  assert(in_flight_ == 0 && queue_.empty() && "nobody uses a ring that ends");
  context_.remove_poll_source(*this);
  if (files_) {
    std::lock_guard lock(files_->mutex_);
    files_->context_ = nullptr;
  }
  if (std::this_thread::get_id() == thread_) {
    io_uring_unregister_files(&ring_);
  } else {
    // The ring's registered descriptor belongs to its thread; here, that number is another's.
    ring_.enter_ring_fd = ring_.ring_fd;
    ring_.int_flags = 0;
  }
  io_uring_queue_exit(&ring_);
}

void UringEngine::start(HostRequest& request) noexcept {
  queue_.push(request);
  ++queued_;
  uint32_t batch = request.disk().options().max_batch;
  uint32_t context_batch = context_.aio_max_batch();
  if (batch == 0 || (context_batch != 0 && context_batch < batch)) batch = context_batch;
  if (batch != 0 && queued_ >= batch) submit();
}

void UringEngine::submit() noexcept {
  if (files_ && files_->any_changes_.load(std::memory_order_acquire)) follow_file_changes();
  while (!queue_.empty() && in_flight_ < kCompletionEntries) {
    io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
    if (sqe == nullptr) {
      if (io_uring_submit(&ring_) <= 0) break;
      continue;
    }
    HostRequest& request = queue_.pop();
    --queued_;
    ++in_flight_;
    if (!prepare(request, *sqe)) {
      io_uring_prep_nop(sqe);
      io_uring_sqe_set_data(sqe, nullptr);
      request.request().complete_later(-ENOMEM);
    }
  }
  // What the kernel does not take now (it says EAGAIN or EBUSY) stays in the ring for the next
  // turn. Asking for completions in the same call saves one that would do nothing else.
  if (io_uring_sq_ready(&ring_) != 0) io_uring_submit_and_get_events(&ring_);
}

// False where memory is short.
bool UringEngine::prepare(HostRequest& host, io_uring_sqe& sqe) noexcept {
  HostDisk& disk = host.disk();
  DiskRequest& request = host.request();
  int fd = disk.fd();
  if (request.op == DiskRequest::Op::flush) {
    io_uring_prep_fsync(&sqe, fd, IORING_FSYNC_DATASYNC);
  } else {
    bool is_read = request.op == DiskRequest::Op::read;
    if (std::byte* piece = host.next_piece()) {
      auto size = static_cast<unsigned>(host.asked);
      if (is_read)
        io_uring_prep_read(&sqe, fd, piece, size, host.offset());
      else
        io_uring_prep_write(&sqe, fd, piece, size, host.offset());
    } else {
      host.vector = vectors_.take();
      if (host.vector == nullptr) return false;
      auto [pieces, count] = host.next_part(host.vector);
      if (is_read)
        io_uring_prep_readv(&sqe, fd, pieces, count, host.offset());
      else
        io_uring_prep_writev(&sqe, fd, pieces, count, host.offset());
    }
    if (request.fua && !is_read) sqe.rw_flags = RWF_DSYNC;
  }
  unsigned flags = 0;
  if (hold_file(disk)) flags |= IOSQE_FIXED_FILE;  // its descriptor is the slot, too
  io_uring_sqe_set_flags(&sqe, flags);
  io_uring_sqe_set_data(&sqe, &host);
  return true;
}

bool UringEngine::kernel_has_work() const noexcept {
  return (IO_URING_READ_ONCE(*ring_.sq.kflags) & (IORING_SQ_TASKRUN | IORING_SQ_CQ_OVERFLOW)) != 0;
}

bool UringEngine::poll() noexcept {
  if (in_flight_ == 0) return false;
  if (io_uring_cq_ready(&ring_) == 0 && kernel_has_work()) io_uring_get_events(&ring_);
  return reap();
}

bool UringEngine::reap() noexcept {
  // Those that come while their forerunners are being resumed are left for the next turn.
  unsigned ready = io_uring_cq_ready(&ring_);
  for (unsigned i = 0; i < ready; ++i) {
    io_uring_cqe* cqe = nullptr;
    if (io_uring_peek_cqe(&ring_, &cqe) != 0) break;
    auto* request = static_cast<HostRequest*>(io_uring_cqe_get_data(cqe));
    int answer = cqe->res;
    io_uring_cqe_seen(&ring_, cqe);
    --in_flight_;
    if (request != nullptr) settle(*request, answer);
  }
  return ready != 0;
}

void UringEngine::settle(HostRequest& request, int answer) noexcept {
  vectors_.give_back(std::exchange(request.vector, nullptr));
  if (answer == -EAGAIN)  // the kernel cannot do this one without waiting
    return context_.service<ThreadPool>().submit(request);
  if (!request.advance(answer)) {
    queue_.push(request);
    ++queued_;
    return;
  }
  request.request().handle.resume();
}

bool UringEngine::prepare_sleep() noexcept {
  if (files_ && files_->any_changes_.load(std::memory_order_seq_cst)) return false;
  if (!queue_.empty() || io_uring_sq_ready(&ring_) != 0) return false;
  if (in_flight_ == 0) return true;
  io_uring_cq_eventfd_toggle(&ring_, true);
  std::atomic_thread_fence(std::memory_order_seq_cst);
  return io_uring_cq_ready(&ring_) == 0 && !kernel_has_work();
}

void UringEngine::finish_sleep() noexcept {
  io_uring_cq_eventfd_toggle(&ring_, false);
}

// Whether the ring's registered file number `disk.fd()` is this disk's.
bool UringEngine::hold_file(HostDisk& disk) noexcept {
  size_t fd = static_cast<size_t>(disk.fd());
  if (fd >= registered_.size()) return false;
  if (files_->any_changes_.load(std::memory_order_acquire)) follow_file_changes();
  if (registered_[fd] == &disk) return true;
  int slot = disk.fd();
  if (!may_register_) return false;
  if (io_uring_register_files_update(&ring_, static_cast<unsigned>(fd), &slot, 1) != 1) {
    may_register_ = false;
    return false;
  }
  registered_[fd] = &disk;
  disk.held_by(files_);
  limit_workers(+1);
  return true;
}

// What cannot be done at once the kernel gives to threads of its own. Those that make a file grow
// wait for its inode one for the other, and burn the processors with it: two keep one disk busy,
// and each further disk has one more, so that none waits for another's flush.
void UringEngine::limit_workers(int disks) noexcept {
  disks_ += disks;
  unsigned most[2] = {static_cast<unsigned>(std::max(disks_ + 1, 2)), 0};  // bounded, unbounded
  io_uring_register_iowq_max_workers(&ring_, most);
}

// A request that is prepared but not submitted yet names its slot, so a slot in use is never empty.
void UringEngine::follow_file_changes() noexcept {
  std::lock_guard lock(files_->mutex_);
  files_->any_changes_.store(false, std::memory_order_relaxed);
  for (auto [fd, drop] : files_->changes_) {
    int file = drop ? -1 : fd;
    io_uring_register_files_update(&ring_, static_cast<unsigned>(fd), &file, 1);
    if (!drop) continue;
    registered_[static_cast<size_t>(fd)] = nullptr;
    limit_workers(-1);
  }
  files_->changes_.clear();
}

}  // namespace strata
