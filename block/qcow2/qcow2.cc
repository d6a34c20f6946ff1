// SPDX-License-Identifier: GPL-2.0-or-later
//
// The driver: an Image behind the interface of the graph.
#include "block/qcow2/qcow2.h"

#include <algorithm>
#include <bit>
#include <cerrno>

#include "block/base/error.h"
#include "block/graph/open.h"
#include "block/names/backing.h"
#include "block/names/filename.h"
#include "block/qcow2/check.h"
#include "block/qcow2/create.h"
#include "block/qcow2/image.h"
#include "qapi/types_block_info.h"

namespace strata {
namespace {

using qcow2::Image;

uint64_t cache_option(const std::optional<int64_t>& value, const char* name) {
  if (value && *value < 0) throw Error("Parameter '{}' expects a non-negative number", name);
  return static_cast<uint64_t>(value.value_or(0));
}

void set_cache_sizes(const qapi::BlockdevOptionsQcow2& options, const qcow2::Geometry& geometry,
                     qcow2::Settings& settings) {
  uint64_t both = cache_option(options.cache_size, "cache-size");
  settings.l2_cache_bytes = cache_option(options.l2_cache_size, "l2-cache-size");
  settings.refcount_cache_bytes = cache_option(options.refcount_cache_size, "refcount-cache-size");
  settings.l2_slice_bytes = cache_option(options.l2_cache_entry_size, "l2-cache-entry-size");
  if (options.cache_size) {
    if (options.l2_cache_size && options.refcount_cache_size)
      throw Error(
          "cache-size, l2-cache-size and refcount-cache-size may not be set at the same time");
    if (settings.l2_cache_bytes > both) throw Error("l2-cache-size may not exceed cache-size");
    if (settings.refcount_cache_bytes > both)
      throw Error("refcount-cache-size may not exceed cache-size");
    uint64_t least = 4 * geometry.cluster_size();
    if (options.refcount_cache_size)
      settings.l2_cache_bytes = both - settings.refcount_cache_bytes;
    else if (!options.l2_cache_size)
      settings.l2_cache_bytes = both - std::min(both, least);
  }
  uint64_t slice = settings.l2_slice_bytes;
  bool valid = slice >= 512 && slice <= geometry.cluster_size() && is_power_of_two(slice);
  if (options.l2_cache_entry_size && !valid)
    throw Error("L2 cache entry size must be a power of two between 512 and the cluster size ({})",
                geometry.cluster_size());
  if (settings.l2_cache_bytes / 512 > INT32_MAX) throw Error("L2 cache size too big");
  if (settings.refcount_cache_bytes / 512 > INT32_MAX) throw Error("Refcount cache size too big");
}

class Qcow2Driver final : public Driver {
 public:
  using Driver::Driver;

  Task<void> open(OpenContext& context) override {
    options_ = context.branch<qapi::BlockdevOptionsQcow2>();
    to_check_ = context.to_check;
    file_ = co_await context.open_child(options_.file, "file", kImageRoles);
    co_await load();
    if (image_->has_data_file() && node().options().metadata_only) {
      // Who asks for information opens nothing that the image names.
    } else if (image_->has_data_file()) {
      data_ = co_await context.open_child(data_reference(), "data-file", ChildRole::data);
      image_->use_data_file(*data_);
    } else if (options_.data_file) {
      throw Error("'data-file' can only be set for images with an external data file");
    }
    co_await open_backing(context);
  }

  Task<Status> preadv(uint64_t offset, IoVector into, ReadFlags) override {
    return image_->read(offset, into);
  }
  Task<Status> pwritev(uint64_t offset, IoVector from, WriteFlags flags) override {
    if (flags.has(WriteFlag::compressed)) return image_->write_compressed(offset, from);
    return image_->write(offset, from);
  }
  Task<Status> pwrite_zeroes(uint64_t offset, uint64_t bytes, WriteFlags flags) override {
    return image_->write_zeroes(offset, bytes, flags.has(WriteFlag::may_unmap));
  }
  Task<Status> pdiscard(uint64_t offset, uint64_t bytes) override {
    return image_->discard(offset, bytes);
  }
  Task<Status> write_back() override { return image_->write_back(); }
  Task<Result<uint64_t>> length() override { return Task<Result<uint64_t>>::ready(image_->size()); }
  Task<void> truncate(uint64_t size, TruncateOptions options) override {
    return image_->resize(size, options);
  }
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t bytes, StatusWant) override;

  WriteFlags write_flags() const noexcept override { return WriteFlag::compressed; }
  WriteFlags zero_flags() const noexcept override { return WriteFlag::may_unmap; }
  Limits limits(const Limits& of_children) const noexcept override {
    Limits limits = of_children;
    const qcow2::Geometry& geometry = image_->geometry();
    limits.pwrite_zeroes_alignment = static_cast<uint32_t>(geometry.subcluster_size());
    limits.pdiscard_alignment = static_cast<uint32_t>(geometry.cluster_size());
    limits.max_transfer = limits.max_pdiscard = limits.max_pwrite_zeroes = 0;
    return limits;
  }
  bool has_zero_init() const noexcept override { return node().backing() == nullptr; }

  Task<Status> close(MainLoop&) override {
    if (!node().is_writable()) co_return Status();
    Status status = co_await image_->settle();
    if (status.ok()) status = co_await image_->mend_flags();
    co_return status;
  }
  Task<void> inactivate(MainLoop&) override {
    if (node().is_read_only()) co_return;
    Status status = co_await image_->settle();
    if (!status.ok())
      throw Error::from_errno(status.error_number(), "Could not write back '{}'", node().name());
  }
  Task<void> activate(MainLoop&) override {
    co_await load();
    if (data_ != nullptr) image_->use_data_file(*data_);
  }

  Image& image() const noexcept { return *image_; }

  std::unique_ptr<qapi::ImageInfoSpecific> specific_info() const override;
  std::vector<qapi::SnapshotInfo> snapshots() const override;
  std::optional<ImageFacts> image_facts() const override {
    return ImageFacts{image_->geometry().cluster_size(),
                      image_->header().has(qcow2::kIncompatibleDirty)};
  }
  std::optional<BackingName> backing_name() const override {
    if (image_->backing_name().empty()) return std::nullopt;
    return BackingName{image_->backing_name(), image_->extensions().backing_format.value_or("")};
  }

 private:
  Task<void> load() {
    auto image = std::make_unique<Image>(node());
    bool writable = !node().is_read_only() && !node().io().inactive;
    co_await image->load(*file_, {.read_write = writable, .repairing = to_check_});
    qcow2::Settings settings;
    set_cache_sizes(options_, image->geometry(), settings);
    settings.discard_request = options_.pass_discard_request.value_or(true);
    settings.discard_snapshot = options_.pass_discard_snapshot.value_or(true);
    settings.discard_other = options_.pass_discard_other.value_or(false);
    settings.discard_no_unref = options_.discard_no_unref.value_or(false);
    if (settings.discard_no_unref && image->header().version < 3)
      throw Error("discard-no-unref is only supported since qcow2 version 3");
    image->configure_caches(settings);
    if (!to_check_) co_await image->load_snapshots();
    co_await image->load_bitmap_directory();
    if (writable && !to_check_ && image->header().has(qcow2::kIncompatibleDirty))
      co_await qcow2::repair_dirty_image(*image);
    image_ = std::move(image);
  }

  qapi::BlockdevRef data_reference() const {
    if (options_.data_file) return *options_.data_file;
    const std::optional<std::string>& name = image_->extensions().data_file;
    if (!name) throw Error("'data-file' is required for this image");
    std::string image = file_->node().file_name().exact;
    size_t slash = image.rfind('/');
    std::string directory = slash != image.npos ? image.substr(0, slash + 1) : "";
    // The name is that of a file and nothing else, whatever it looks like.
    std::string path = name->starts_with('/') ? *name : directory + *name;
    check_data_path(path, directory);
    qapi::BlockdevOptions file;
    file.select(qapi::BlockdevDriver::file);
    file.get_if<qapi::BlockdevOptionsFile>()->filename = path;
    return qapi::Box<qapi::BlockdevOptions>(std::move(file));
  }

  // Who took the image for a disk of another kind does not expect that writing to it changes a file
  // elsewhere.
  void check_data_path(const std::string& path, const std::string& directory) const {
    if (!node().options().guessed_format || node().is_read_only()) return;
    bool beside = path.starts_with(directory) && path.find('/', directory.size()) == path.npos;
    if (!beside)
      throw Error("The data file '{}' is not written to, because the image's format was guessed",
                  path)
          .hint("Specify the format 'qcow2' explicitly to write to it.\n");
  }

  Task<void> open_backing(OpenContext& context) {
    if (options_.backing && std::holds_alternative<qapi::Null>(*options_.backing)) co_return;
    if (!options_.backing && image_->backing_name().empty()) co_return;
    if (image_->data_file_raw()) throw Error("Backing files are not possible with a raw data file");
    std::optional<Error> failed;
    try {
      co_await open_named_backing(context);
    } catch (Error& error) {
      failed = std::move(error).prepend("Could not open backing file: ");
    }
    if (failed) throw *failed;
  }

  Task<void> open_named_backing(OpenContext& context) {
    if (!options_.backing) {
      co_await open_recorded_backing(context,
                                     {image_->backing_name(), image_->extensions().backing_format,
                                      file_->node().file_name().exact});
      co_return;
    }
    qapi::BlockdevRef reference;
    if (const auto* name = std::get_if<std::string>(&*options_.backing))
      reference = *name;
    else
      reference = std::get<qapi::Box<qapi::BlockdevOptions>>(*options_.backing);
    co_await context.open_child(reference, "backing", ChildRole::cow);
  }

  qapi::BlockdevOptionsQcow2 options_;
  bool to_check_ = false;
  Edge* file_ = nullptr;
  Edge* data_ = nullptr;
  std::unique_ptr<Image> image_;
};

Task<Result<BlockStatus>> Qcow2Driver::block_status(uint64_t offset, uint64_t bytes, StatusWant) {
  Result<qcow2::Run> run = co_await image_->lookup(qcow2::GuestOffset(offset), bytes);
  if (!run) co_return run.status();
  BlockStatus status;
  status.bytes = run->bytes;
  if (const auto* data = run->get_if<qcow2::Data>()) {
    status.flags = {StatusFlag::data, StatusFlag::offset_valid, StatusFlag::recurse};
    status.map_offset = data->host.value;
    status.file = data_ != nullptr ? &data_->node() : &file_->node();
  } else if (run->get_if<qcow2::Zero>() != nullptr) {
    status.flags = StatusFlag::zero;
  } else if (run->get_if<qcow2::Compressed>() != nullptr) {
    status.flags = {StatusFlag::data, StatusFlag::compressed};
  } else if (run->get_if<qcow2::Invalid>() != nullptr) {
    co_return Status::error(EIO);
  }
  co_return status;
}

std::unique_ptr<qapi::ImageInfoSpecific> Qcow2Driver::specific_info() const {
  const qcow2::Header& header = image_->header();
  auto info = std::make_unique<qapi::ImageInfoSpecific>();
  info->select(qapi::ImageInfoSpecificKind::qcow2);
  auto& data = info->get_if<qapi::ImageInfoSpecificQCow2Wrapper>()->data;
  data.refcount_bits = image_->geometry().refcount_bits();
  data.compression_type = header.compression_type == 0 ? qapi::Qcow2CompressionType::zlib
                                                       : qapi::Qcow2CompressionType::zstd;
  if (header.version < 3) {
    data.compat = "0.10";
    return info;
  }
  data.compat = "1.1";
  data.lazy_refcounts = (header.compatible & qcow2::kCompatibleLazyRefcounts) != 0;
  data.corrupt = header.has(qcow2::kIncompatibleCorrupt);
  data.extended_l2 = image_->geometry().extended_l2();
  if (image_->has_data_file()) {
    data.data_file = image_->extensions().data_file;
    data.data_file_raw = image_->data_file_raw();
  }
  if (image_->bitmaps().empty()) return info;
  data.bitmaps.emplace();
  for (const qcow2::BitmapEntry& bitmap : image_->bitmaps()) {
    qapi::Qcow2BitmapInfo out;
    out.name = bitmap.name;
    out.granularity = uint32_t{1} << bitmap.granularity_bits;
    if (bitmap.in_use()) out.flags.push_back(qapi::Qcow2BitmapInfoFlags::in_use);
    if (bitmap.automatic()) out.flags.push_back(qapi::Qcow2BitmapInfoFlags::auto_);
    data.bitmaps->push_back(std::move(out));
  }
  return info;
}

std::vector<qapi::SnapshotInfo> Qcow2Driver::snapshots() const {
  std::vector<qapi::SnapshotInfo> all;
  for (const qcow2::Snapshot& snapshot : image_->snapshots()) {
    qapi::SnapshotInfo info;
    info.id = snapshot.id;
    info.name = snapshot.name;
    info.vm_state_size = static_cast<int64_t>(snapshot.vm_state_size);
    info.date_sec = snapshot.date_seconds;
    info.date_nsec = snapshot.date_nanoseconds;
    info.vm_clock_sec = static_cast<int64_t>(snapshot.vm_clock_ns / 1'000'000'000);
    info.vm_clock_nsec = static_cast<int64_t>(snapshot.vm_clock_ns % 1'000'000'000);
    if (snapshot.icount != UINT64_MAX) info.icount = static_cast<int64_t>(snapshot.icount);
    all.push_back(std::move(info));
  }
  return all;
}

std::unique_ptr<Driver> create_driver(const DriverDescriptor& descriptor) {
  return std::make_unique<Qcow2Driver>(descriptor);
}

Task<void> create_image(MainLoop& loop, BlockLayer& layer,
                        const qapi::BlockdevCreateOptions& options) {
  return qcow2::create(loop, layer, *options.get_if<qapi::BlockdevCreateOptionsQcow2>());
}

}  // namespace

const DriverDescriptor kQcow2Driver{.name = qapi::BlockdevDriver::qcow2,
                                    .is_format = true,
                                    .supports_backing = true,
                                    .create = create_driver,
                                    .create_image = create_image};

namespace qcow2 {

Task<void> show_snapshot(Node& node, SnapshotName which) {
  Image* image = image_of(node);
  if (image == nullptr)
    throw Error(
        "Block format '{}' used by device '' does not support temporarily loading internal "
        "snapshots",
        node.format_name());
  const std::vector<Snapshot>& all = image->snapshots();
  auto found = std::find_if(all.begin(), all.end(), [&](const Snapshot& one) {
    return (!which.id || one.id == *which.id) && (!which.name || one.name == *which.name);
  });
  if (found == all.end()) throw Error("Can't find snapshot");
  co_await image->show_snapshot(static_cast<size_t>(found - all.begin()));
  co_await node.refresh_length();
}

Task<void> show_snapshot(Node& node, std::string any) {
  Image* image = image_of(node);
  bool is_id = image != nullptr && std::any_of(image->snapshots().begin(), image->snapshots().end(),
                                               [&](const Snapshot& one) { return one.id == any; });
  SnapshotName which;
  (is_id ? which.id : which.name) = std::move(any);
  return show_snapshot(node, std::move(which));
}

}  // namespace qcow2

qcow2::Image* qcow2::image_of(const Node& node) noexcept {
  auto* driver = dynamic_cast<Qcow2Driver*>(&node.driver());
  return driver != nullptr ? &driver->image() : nullptr;
}

}  // namespace strata
