// SPDX-License-Identifier: GPL-2.0-or-later
//
// The options behind -o: what the drivers that can make images offer there, in the order in which
// "Formatting" lists them.
#include <array>

#include "tools/img/create_options.h"

namespace strata::tools {
namespace {

using Kind = CreateOption::Kind;

constexpr CreateOption kFile[]{
    {"size", Kind::size, "Virtual disk size"},
    {"nocow", Kind::flag, "Turn off copy-on-write (valid only on btrfs)"},
    {"preallocation", Kind::text, "Preallocation mode (allowed values: off, falloc, full)"},
    {"extent_size_hint", Kind::size, "Extent size hint for the image file, 0 to disable"},
};

constexpr CreateOption kRaw[]{{"size", Kind::size, "Virtual disk size"}};

// For what cannot be made, but is there: a device, an export.
constexpr CreateOption kExisting[]{
    {"size", Kind::size, "Virtual disk size"},
    {"preallocation", Kind::text, "Preallocation mode (allowed values: off)"},
};

constexpr CreateOption kQcow2[]{
    {"encryption", Kind::flag,
     "Encrypt the image with format 'aes'. (Deprecated in favor of encrypt.format=aes)"},
    {"encrypt.format", Kind::text, "Encrypt the image, format choices: 'aes', 'luks'"},
    {"encrypt.key-secret", Kind::text, "ID of secret providing qcow AES key or LUKS passphrase"},
    {"encrypt.cipher-alg", Kind::text, "Name of encryption cipher algorithm"},
    {"encrypt.cipher-mode", Kind::text, "Name of encryption cipher mode"},
    {"encrypt.ivgen-alg", Kind::text, "Name of IV generator algorithm"},
    {"encrypt.ivgen-hash-alg", Kind::text, "Name of IV generator hash algorithm"},
    {"encrypt.hash-alg", Kind::text, "Name of encryption hash algorithm"},
    {"encrypt.iter-time", Kind::number, "Time to spend in PBKDF in milliseconds"},
    {"cluster_size", Kind::size, "qcow2 cluster size", "65536"},
    {"extended_l2", Kind::flag, "Extended L2 tables", "off"},
    {"preallocation", Kind::text,
     "Preallocation mode (allowed values: off, metadata, falloc, full)"},
    {"compression_type", Kind::text, "Compression method used for image cluster compression",
     "zlib"},
    {"size", Kind::size, "Virtual disk size"},
    {"compat", Kind::text, "Compatibility level (v2 [0.10] or v3 [1.1])"},
    {"backing_file", Kind::text, "File name of a base image"},
    {"backing_fmt", Kind::text, "Image format of the base image"},
    {"data_file", Kind::text, "File name of an external data file"},
    {"data_file_raw", Kind::flag, "The external data file must stay valid as a raw image"},
    {"lazy_refcounts", Kind::flag, "Postpone refcount updates", "off"},
    {"refcount_bits", Kind::number, "Width of a reference count entry in bits", "16"},
};

constexpr CreateOption kLuks[]{
    {"size", Kind::size, "Virtual disk size"},
    {"key-secret", Kind::text, "ID of the secret that provides the keyslot passphrase"},
    {"cipher-alg", Kind::text, "Name of encryption cipher algorithm"},
    {"cipher-mode", Kind::text, "Name of encryption cipher mode"},
    {"ivgen-alg", Kind::text, "Name of IV generator algorithm"},
    {"ivgen-hash-alg", Kind::text, "Name of IV generator hash algorithm"},
    {"hash-alg", Kind::text, "Name of encryption hash algorithm"},
    {"iter-time", Kind::number, "Time to spend in PBKDF in milliseconds"},
    {"detached-header", Kind::flag, "Create a detached LUKS header"},
};

constexpr CreateOption kAmendQcow2[]{
    {"encrypt.state", Kind::text, "Select new state of affected keyslots (active/inactive)"},
    {"encrypt.new-secret", Kind::text,
     "New secret to set in the matching keyslots. Empty string to erase"},
    {"encrypt.old-secret", Kind::text, "Select all keyslots that match this password"},
    {"encrypt.keyslot", Kind::number, "Select a single keyslot to modify explicitly"},
    {"encrypt.iter-time", Kind::number, "Time to spend in PBKDF in milliseconds"},
    {"size", Kind::size, "Virtual disk size"},
    {"compat", Kind::text, "Compatibility level (v2 [0.10] or v3 [1.1])"},
    {"backing_file", Kind::text, "File name of a base image"},
    {"backing_fmt", Kind::text, "Image format of the base image"},
    {"data_file", Kind::text, "File name of an external data file"},
    {"data_file_raw", Kind::flag, "The external data file must stay valid as a raw image"},
    {"lazy_refcounts", Kind::flag, "Postpone refcount updates"},
    {"refcount_bits", Kind::number, "Width of a reference count entry in bits"},
};

constexpr CreateOption kAmendLuks[]{
    {"state", Kind::text, "Select new state of affected keyslots (active/inactive)"},
    {"new-secret", Kind::text, "New secret to set in the matching keyslots. Empty string to erase"},
    {"old-secret", Kind::text, "Select all keyslots that match this password"},
    {"keyslot", Kind::number, "Select a single keyslot to modify explicitly"},
    {"iter-time", Kind::number, "Time to spend in PBKDF in milliseconds"},
};

struct Table {
  std::string_view driver;
  std::span<const CreateOption> options;
};

constexpr std::array<Table, 7> kTables{{
    {"file", kFile},
    {"host_device", kExisting},
    {"luks", kLuks},
    {"nbd", kExisting},
    {"qcow2", kQcow2},
    {"raw", kRaw},
    {"blkdebug", kExisting},
}};

}  // namespace

std::span<const CreateOption> create_table(std::string_view driver) noexcept {
  for (const Table& table : kTables)
    if (table.driver == driver) return table.options;
  return {};
}

std::span<const CreateOption> amend_table(std::string_view driver) noexcept {
  if (driver == "qcow2") return kAmendQcow2;
  if (driver == "luks") return kAmendLuks;
  return {};
}

}  // namespace strata::tools
