// SPDX-License-Identifier: GPL-2.0-or-later
//
// The driver: an Image behind the interface of the graph.
#include "block/qcow2/qcow2.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>

#include "block/base/error.h"
#include "block/base/log.h"
#include "block/crypto/amend.h"
#include "block/graph/open.h"
#include "block/graph/reopen.h"
#include "block/names/backing.h"
#include "block/names/filename.h"
#include "block/qcow2/bitmaps.h"
#include "block/qcow2/check.h"
#include "block/qcow2/cleaner.h"
#include "block/qcow2/create.h"
#include "block/qcow2/image.h"
#include "qapi/types_block_info.h"

namespace strata {
namespace {

using qcow2::Image;

constexpr std::array<std::string_view, 11> kChangeable{
    "cache-clean-interval",  "cache-size",         "discard-no-unref",
    "l2-cache-entry-size",   "l2-cache-size",      "lazy-refcounts",
    "overlap-check",         "pass-discard-other", "pass-discard-request",
    "pass-discard-snapshot", "refcount-cache-size"};

constexpr uint64_t kToolsCacheBytes = 8 << 20;

class Qcow2Driver final : public Driver, public crypto::EncryptionOwner {
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
    if (may_write()) co_await drop_unknown_features();
    if (may_write() && !to_check_)
      co_await bitmaps_->begin_writing(context.layer.keeps_bitmaps_ahead());
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
  Task<Status> write_back() override {
    if (bitmaps_->checkpoint_due()) [[unlikely]]
      return checkpoint_and_write_back();
    return image_->write_back();
  }
  Task<Status> load_vm_state(uint64_t offset, IoVector into) override {
    return image_->load_vm_state(offset, into);
  }
  Task<Status> save_vm_state(uint64_t offset, IoVector from) override {
    return image_->save_vm_state(offset, from);
  }
  Task<Result<uint64_t>> length() override { return Task<Result<uint64_t>>::ready(image_->size()); }
  Task<void> truncate(uint64_t size, TruncateOptions options) override {
    return resize_with_bitmaps(size, options);
  }
  Task<void> truncated() override { return bitmaps_->after_resize(); }
  Task<Result<BlockStatus>> block_status(uint64_t offset, uint64_t bytes, StatusWant) override;
  bool knows_zeroes(uint64_t offset, uint64_t bytes) const noexcept override {
    return !image_->is_surely_data(qcow2::GuestOffset(offset), bytes);
  }

  WriteFlags write_flags() const noexcept override { return WriteFlag::compressed; }
  WriteFlags zero_flags() const noexcept override { return WriteFlag::may_unmap; }
  Limits limits(const Limits& of_children) const noexcept override {
    Limits limits = of_children;
    const qcow2::Geometry& geometry = image_->geometry();
    if (image_->encryption()) limits.request_alignment = crypto::kSectorBytes;
    limits.pwrite_zeroes_alignment = static_cast<uint32_t>(geometry.subcluster_size());
    limits.pdiscard_alignment = static_cast<uint32_t>(geometry.cluster_size());
    limits.max_transfer = limits.max_pdiscard = limits.max_pwrite_zeroes = 0;
    return limits;
  }
  bool has_zero_init() const noexcept override {
    // Version 2 cannot tell that what is preallocated is no data yet.
    bool garbled = image_->encryption() && image_->header().version < 3;
    return node().backing() == nullptr && !garbled;
  }
  bool is_encrypted() const noexcept override { return static_cast<bool>(image_->encryption()); }
  boost::json::object strong_options() const override {
    boost::json::object options;
    const std::optional<std::string>& secret = image_->encryption().key_secret();
    if (secret) options["encrypt.key-secret"] = *secret;
    return options;
  }
  Task<void> amend_encryption(MainLoop&, const qapi::QCryptoBlockAmendOptionsLUKS& options,
                              bool force) override {
    return image_->amend_encryption(options, force);
  }

  Task<void> close(MainLoop&) override {
    if (!node().is_writable() || image_->is_unusable()) co_return;
    co_await store_bitmaps();
    if (int error = image_->why_unguarded())
      log_error("Failed to flush the refcount block cache: {}", Error::describe_errno(error));
    Status status;
    if (!image_->is_settled()) status = co_await image_->settle();
    if (status.ok()) {
      // Where flags stay in doubt, whoever opens the image next sees to them.
      if (!(co_await image_->mend_flags()).ok()) co_return;
      co_await image_->cut_tail();
      co_return co_await image_->fill_last_cluster();
    }
    // Whoever opens an image that was to be empty counts anew what is in it.
    if (image_->is_unusable() || image_->is_emptying()) co_return;
    std::string why = Error::describe_errno(status.error_number());
    log_error("Failed to flush the L2 table cache: {}", why);
    log_error("Failed to flush the refcount block cache: {}", why);
  }
  Task<void> prepare_reopen(ReopenContext& context) override;
  void commit_reopen() noexcept override;
  Task<void> abort_reopen(MainLoop&) override {
    std::unique_ptr<NewOptions> gone = std::exchange(next_, nullptr);
    if (gone->stops_writing) co_await bitmaps_->begin_writing(node().layer().keeps_bitmaps_ahead());
  }
  Task<void> after_reopen(MainLoop&) override;
  Task<void> inactivate(MainLoop&) override {
    if (node().is_read_only()) co_return;
    Status status = co_await store_and_settle();
    if (!status.ok())
      throw Error::from_errno(status.error_number(), "Could not write back '{}'", node().name());
    node().bitmaps().remove_persistent();
  }
  Task<void> activate(MainLoop&) override {
    co_await load();
    if (data_ != nullptr) image_->use_data_file(*data_);
    if (may_write()) co_await begin_writing();
  }

  void check_new_bitmap(const std::string& name, uint64_t granularity) const override {
    bitmaps_->check_new(name, granularity);
  }
  Task<void> change_bitmaps(std::function<void()> change) override {
    return bitmaps_->change(std::move(change));
  }
  Task<void> forget_bitmap(std::string name) override { return bitmaps_->forget(std::move(name)); }
  qcow2::PersistentBitmaps& bitmaps() const noexcept { return *bitmaps_; }

  Image& image() const noexcept { return *image_; }

  std::unique_ptr<qapi::ImageInfoSpecific> specific_info() const override;
  std::vector<qapi::SnapshotInfo> snapshots() const override;
  std::optional<ImageFacts> image_facts() const override {
    const qcow2::Geometry& geometry = image_->geometry();
    return ImageFacts{geometry.cluster_size(), image_->header().has(qcow2::kIncompatibleDirty),
                      image_->vm_state_offset()};
  }
  std::optional<BackingName> backing_name() const override {
    if (image_->backing_name().empty()) return std::nullopt;
    return BackingName{image_->backing_name(), image_->extensions().backing_format.value_or("")};
  }

 private:
  Task<void> drop_unknown_features() {
    Status status = co_await image_->drop_unknown_features();
    if (!status.ok())
      throw Error::from_errno(status.error_number(), "Could not update qcow2 header");
  }

  Task<void> begin_writing() {
    co_await drop_unknown_features();
    co_await bitmaps_->begin_writing(node().layer().keeps_bitmaps_ahead());
  }

  bool may_write() const noexcept { return !node().is_read_only() && !node().io().inactive; }

  // What is only read has the tables that are in the file, of which some places in the cache are
  // taken for others. What is written to may get more, for which a daemon, who keeps bitmaps ahead,
  // is prepared; a tool goes through an image in order, and may have several of them open.
  qcow2::CacheBounds cache_bounds(bool writes) const noexcept {
    uint64_t length = std::min(file_->node().length(), uint64_t{INT64_MAX} / 4);
    if (!writes) return {.in_file = 2 * length};
    if (node().layer().keeps_bitmaps_ahead()) return {};
    return {.most = std::min(qcow2::CacheBounds::kMost, kToolsCacheBytes + length)};
  }

  Task<Status> checkpoint_and_write_back() {
    (void)co_await bitmaps_->checkpoint();  // the disk says too much for a while longer
    co_return co_await image_->write_back();
  }
  Task<void> store_bitmaps() {
    Status stored = co_await bitmaps_->store();
    if (stored.ok()) co_return;
    const std::string& what = bitmaps_->what_failed();
    log_error("Lost persistent bitmaps during inactivation of node '{}': {}{}{}", node().name(),
              what, what.empty() ? "" : ": ", Error::describe_errno(stored.error_number()));
  }
  Task<Status> store_and_settle() {
    co_await store_bitmaps();
    Status status = co_await image_->settle();
    if (status.ok()) co_await image_->cut_tail();
    co_return status;
  }
  Task<void> resize_with_bitmaps(uint64_t size, TruncateOptions options) {
    co_await bitmaps_->before_resize();
    co_await image_->resize(size, options);
  }

  Task<void> load() {
    auto image = std::make_unique<Image>(node());
    bool writable = may_write();
    co_await image->load(*file_, {.read_write = writable, .repairing = to_check_});
    co_await image->open_encryption(options_.encrypt);
    image->configure(qcow2::settings_of(options_, image->header(), cache_bounds(writable)));
    if (!to_check_) co_await image->load_snapshots();
    co_await image->load_bitmap_directory();
    auto bitmaps = std::make_unique<qcow2::PersistentBitmaps>(*image, node());
    if (!node().io().inactive && !to_check_) co_await bitmaps->load();
    if (writable && !to_check_ && image->header().has(qcow2::kIncompatibleDirty))
      co_await qcow2::repair_dirty_image(*image);
    cleaner_.reset();
    image->expect_growth();
    bitmaps_ = std::move(bitmaps);
    image_ = std::move(image);
    cleaner_.emplace(*AioContext::current(), *image_, image_->settings().clean_interval);
  }

  qapi::BlockdevRef data_reference() const {
    if (options_.data_file) return *options_.data_file;
    const std::optional<std::string>& name = image_->extensions().data_file;
    if (!name) throw Error("'data-file' is required for this image");
    std::string image = start_of_names(node());
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
  // elsewhere. A check does not write there.
  void check_data_path(const std::string& path, const std::string& directory) const {
    if (!node().options().guessed_format || node().is_read_only() || to_check_) return;
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
      co_await open_recorded_backing(
          context,
          {image_->backing_name(), image_->extensions().backing_format, start_of_names(node())});
      co_return;
    }
    qapi::BlockdevRef reference;
    if (const auto* name = std::get_if<std::string>(&*options_.backing))
      reference = *name;
    else
      reference = std::get<qapi::Box<qapi::BlockdevOptions>>(*options_.backing);
    co_await context.open_child(reference, "backing", ChildRole::cow);
  }

  // From prepare_reopen() on.
  struct NewOptions {
    qapi::BlockdevOptionsQcow2 options;
    qcow2::Settings settings;
    qcow2::L2Cache::StoragePtr cache;
    bool stops_writing = false;
    bool starts_writing = false;
  };

  qapi::BlockdevOptionsQcow2 options_;
  std::unique_ptr<NewOptions> next_;
  bool to_check_ = false;
  Edge* file_ = nullptr;
  Edge* data_ = nullptr;
  std::unique_ptr<Image> image_;
  std::optional<qcow2::Cleaner> cleaner_;
  std::unique_ptr<qcow2::PersistentBitmaps> bitmaps_;
};

Task<void> Qcow2Driver::prepare_reopen(ReopenContext& context) {
  auto next = std::make_unique<NewOptions>();
  next->options = context.branch<qapi::BlockdevOptionsQcow2>();
  bool writes = may_write();
  bool will_write = !context.in_force.read_only && !node().io().inactive;
  next->settings = qcow2::settings_of(next->options, image_->header(), cache_bounds(will_write));
  next->cache = image_->cache_for(next->settings);
  next->stops_writing = writes && !will_write;
  next->starts_writing = !writes && will_write;
  if (next->starts_writing && image_->header().has(qcow2::kIncompatibleCorrupt))
    throw Error::from_text("qcow2: Image is corrupt; cannot be opened read/write", EACCES);
  bool settles = next->cache || next->stops_writing ||
                 (image_->settings().lazy_refcounts && !next->settings.lazy_refcounts);
  Status status;
  if (next->stops_writing)
    status = co_await store_and_settle();
  else if (writes && settles)
    status = co_await image_->settle();
  if (!status.ok()) throw Error::from_errno(status.error_number(), "Error flushing drive");
  if (next->starts_writing) status = co_await image_->load_refcounts();
  if (!status.ok())
    throw Error::from_errno(status.error_number(), "Could not initialize refcount handling");
  next_ = std::move(next);
}

void Qcow2Driver::commit_reopen() noexcept {
  if (next_->stops_writing) bitmaps_->end_writing();
  options_ = std::move(next_->options);
  image_->change_settings(next_->settings, std::move(next_->cache));
  cleaner_.emplace(node().layer().main_loop().context(), *image_, next_->settings.clean_interval);
}

Task<void> Qcow2Driver::after_reopen(MainLoop&) {
  bool starts_writing = std::exchange(next_, nullptr)->starts_writing;
  if (!starts_writing) co_return;
  std::optional<Error> failed;
  try {
    if (image_->header().has(qcow2::kIncompatibleDirty))
      co_await qcow2::repair_dirty_image(*image_);
    co_await begin_writing();
  } catch (Error& error) {
    failed = std::move(error);
  }
  if (!failed) co_return;
  image_->abandon();  // its metadata is not fit to be written to
  throw *std::move(failed);
}

Task<Result<BlockStatus>> Qcow2Driver::block_status(uint64_t offset, uint64_t bytes,
                                                    StatusWant want) {
  Result<qcow2::Run> run = co_await image_->lookup(qcow2::GuestOffset(offset), bytes);
  if (!run) co_return run.status();
  BlockStatus status;
  status.bytes = run->bytes;
  auto lies_at = [&](qcow2::HostOffset host) {
    if (image_->encryption()) return;
    status.flags |= StatusFlag::offset_valid;
    status.map_offset = host.value;
    status.file = data_ != nullptr ? &data_->node() : &file_->node();
  };
  if (const auto* data = run->get_if<qcow2::Data>()) {
    status.flags = StatusFlag::data;
    bool exact = want == StatusWant::mapping && !image_->encryption();
    if (exact && co_await image_->has_unwritten_data()) status.flags |= StatusFlag::recurse;
    lies_at(data->host);
  } else if (const auto* zero = run->get_if<qcow2::Zero>()) {
    status.flags = StatusFlag::zero;
    if (zero->host.value != 0) lies_at(zero->host);
  } else if (const auto* nothing = run->get_if<qcow2::Unallocated>()) {
    if (nothing->host.value != 0) lies_at(nothing->host);
  } else if (const auto* compressed = run->get_if<qcow2::Compressed>()) {
    status.flags = {StatusFlag::data, StatusFlag::compressed};
    status.map_offset = compressed->extent.bytes;  // it has no offset, but what it takes there
  } else if (const auto* invalid = run->get_if<qcow2::Invalid>()) {
    co_return image_->refuse_entry(*invalid, qcow2::GuestOffset(offset));
  }
  co_return status;
}

void describe_encryption(const qcow2::Encryption& encryption, qapi::ImageInfoSpecificQCow2& out) {
  if (!encryption) return;
  out.encrypt.emplace();
  if (encryption.luks() == nullptr)
    return out.encrypt->select(qapi::BlockdevQcow2EncryptionFormat::aes);
  out.encrypt->select(qapi::BlockdevQcow2EncryptionFormat::luks);
  *out.encrypt->get_if<qapi::QCryptoBlockInfoLUKS>() = encryption.luks()->info();
}

std::unique_ptr<qapi::ImageInfoSpecific> Qcow2Driver::specific_info() const {
  const qcow2::Header& header = image_->header();
  auto info = std::make_unique<qapi::ImageInfoSpecific>();
  info->select(qapi::ImageInfoSpecificKind::qcow2);
  auto& data = info->get_if<qapi::ImageInfoSpecificQCow2Wrapper>()->data;
  data.refcount_bits = image_->geometry().refcount_bits();
  data.compression_type = header.compression_type == 0 ? qapi::Qcow2CompressionType::zlib
                                                       : qapi::Qcow2CompressionType::zstd;
  describe_encryption(image_->encryption(), data);
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
                                    .reopens = true,
                                    .changeable = kChangeable,
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

qcow2::PersistentBitmaps* qcow2::bitmaps_of(const Node& node) noexcept {
  auto* driver = dynamic_cast<Qcow2Driver*>(&node.driver());
  return driver != nullptr ? &driver->bitmaps() : nullptr;
}

qcow2::Image* qcow2::image_of(const Node& node) noexcept {
  auto* driver = dynamic_cast<Qcow2Driver*>(&node.driver());
  return driver != nullptr ? &driver->image() : nullptr;
}

}  // namespace strata
