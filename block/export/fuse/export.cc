// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/export/fuse/export.h"

#include <unistd.h>

#include <algorithm>
#include <set>

#include "block/aio/run_in.h"
#include "block/aio/thread_pool.h"
#include "block/base/error.h"
#include "block/export/fuse/file.h"
#include "block/export/fuse/mount.h"
#include "block/export/fuse/queue.h"

namespace strata {
namespace {

using fuse_export::ExportedFile;
using fuse_export::FileTraits;
using fuse_export::Mount;
using fuse_export::Mounter;
using fuse_export::Queue;

using Paths = std::set<std::string>;

// The place of one export, which no other one takes meanwhile.
class Place {
 public:
  // `path` is what `mountpoint`, as the user wrote it, stands for. Throws Error.
  Place(std::shared_ptr<Paths> taken, std::string path, const std::string& mountpoint)
      : taken_(std::move(taken)), path_(std::move(path)) {
    if (!taken_->insert(path_).second)
      throw Error("There already is a FUSE export on '{}'", mountpoint);
  }
  Place(Place&& other) noexcept
      : taken_(std::exchange(other.taken_, nullptr)), path_(std::move(other.path_)) {}
  Place& operator=(Place&&) = delete;
  ~Place() {
    if (taken_ != nullptr) taken_->erase(path_);
  }
  const std::string& path() const noexcept { return path_; }

 private:
  std::shared_ptr<Paths> taken_;
  std::string path_;
};

// Tells the kernel that what it knows of the file's size is no longer so.
void invalidate_attributes(const UniqueFd& device) noexcept {
  struct {
    fuse_out_header header;
    fuse_notify_inval_inode_out body;
  } message{};
  message.header.len = sizeof message;
  message.header.error = FUSE_NOTIFY_INVAL_INODE;
  message.body.ino = fuse_export::kFileNode;
  message.body.off = -1;  // attributes only
  // ENOENT: it knows nothing.
  std::ignore = ::write(device.get(), &message, sizeof message);
}

// Main loop only.
class FuseExport final : public Export {
 public:
  // The mount is taken back by whoever made it if this throws Error.
  FuseExport(const ExportParts& parts, std::unique_ptr<Backend>& backend, FileTraits traits,
             Place place, std::shared_ptr<Mounter> mounter, Mount& mount)
      : Export(parts.options.id, qapi::BlockExportType::fuse),
        loop_(parts.loop),
        file_(parts.loop, *backend, traits),
        place_(std::move(place)),
        mounter_(std::move(mounter)) {
    std::vector<AioContext*> contexts = parts.contexts;
    std::ranges::sort(contexts);
    auto [first, last] = std::ranges::unique(contexts);
    contexts.erase(first, last);
    for (AioContext* context : contexts) {
      queues_.push_back(std::make_unique<Queue>(
          *context, file_, fuse_export::clone_device(mount.device), gone_callback()));
    }
    backend_ = std::move(backend);
    mount_ = std::move(mount);
    // Whoever resizes the node may do so in another context, and the news come when we are gone.
    backend_->on_resize([this, &context = loop_.context(), alive = std::weak_ptr<bool>(alive_)] {
      if (file_.is_resizing()) return;
      post(context, [this, alive] {
        if (!alive.expired()) invalidate_attributes(mount_.device);
      });
    });
  }

  Task<void> start() {
    for (auto& queue : queues_) co_await run_in(queue->context(), queue->start());
  }

  Backend& backend() const noexcept override { return *backend_; }
  // Whoever has the file open does not keep it from going.
  size_t users() const noexcept override { return 0; }

 private:
  std::function<void()> gone_callback() {
    return [this, &context = loop_.context(), alive = std::weak_ptr<bool>(alive_)] {
      post(context, [this, alive] {
        if (!alive.expired()) end(loop_);
      });
    };
  }

  // Unmounting may write what the kernel has cached, so it is served until that is done. Closing
  // the devices then ends the file for those who still have it open.
  Task<void> shut_down(MainLoop& loop) override {
    auto& pool = loop.context().service<ThreadPool>();
    co_await pool.run([this] { mounter_->unmount(mount_); });
    for (auto& queue : queues_) co_await run_in(queue->context(), queue->stop());
    queues_.clear();
    mount_.device.reset();
    co_await backend_->close(loop);
  }

  MainLoop& loop_;
  std::unique_ptr<Backend> backend_;
  ExportedFile file_;
  Place place_;
  std::shared_ptr<Mounter> mounter_;
  Mount mount_;
  std::vector<std::unique_ptr<Queue>> queues_;
  std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
};

FileTraits traits_from(const qapi::BlockExportOptions& options) {
  const auto& fuse = *options.get_if<qapi::BlockExportOptionsFuse>();
  FileTraits traits;
  traits.writable = options.writable.value_or(false);
  traits.growable = traits.writable && fuse.growable.value_or(false);
  return traits;
}

Task<std::unique_ptr<Export>> make_export(ExportParts parts, std::shared_ptr<Paths> taken,
                                          std::shared_ptr<Mounter> mounter) {
  std::exception_ptr failure;
  auto& pool = parts.loop.context().service<ThreadPool>();
  Mount mount;
  try {
    if (mounter == nullptr)
      throw Error("Inside the sandbox there can be FUSE exports only if an option asks for one");
    const auto& options = *parts.options.get_if<qapi::BlockExportOptionsFuse>();
    FileTraits traits = traits_from(parts.options);
    if (traits.growable) {
      Permissions permissions = parts.backend->permissions();
      permissions.needed |= Permission::resize;
      parts.backend->set_permissions(parts.loop, permissions);
    }
    std::string path =
        co_await pool.run([&] { return fuse_export::find_mountpoint(options.mountpoint); });
    Place place(taken, std::move(path), options.mountpoint);
    auto allow = options.allow_other.value_or(qapi::FuseExportAllowOther::auto_);
    mount = co_await pool.run([&] { return mounter->mount_over(place.path(), allow); });
    traits.allow_other = mount.allow_other;
    auto made = std::make_unique<FuseExport>(parts, parts.backend, traits, std::move(place),
                                             mounter, mount);
    co_await made->start();
    co_return made;
  } catch (const Error&) {
    failure = std::current_exception();
  }
  if (mount.device) co_await pool.run([&] { mounter->unmount(mount); });
  co_await parts.backend->close(parts.loop);
  std::rethrow_exception(failure);
}

}  // namespace

void register_fuse(ExportRegistry& exports, std::shared_ptr<Mounter> mounter) {
  auto taken = std::make_shared<Paths>();
  exports.register_type(qapi::BlockExportType::fuse, [taken, mounter](ExportParts parts) {
    return make_export(std::move(parts), taken, mounter);
  });
}

}  // namespace strata
