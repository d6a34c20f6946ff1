// SPDX-License-Identifier: GPL-2.0-or-later
//
// From what a command line says about an image to an open node. Legacy forms end here: below are
// only schema types.
#pragma once

#include <boost/json/object.hpp>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "block/io/backend.h"
#include "block/names/image.h"
#include "qapi/types_blockdev.h"
#include "tools/common/tool.h"

namespace strata::tools {

using ImageSource = ImageName;

// How.
struct OpenFlags {
  bool writable = false;
  bool cache_direct = false;
  bool cache_no_flush = false;
  bool write_through = false;
  bool force_share = false;
  std::optional<bool> discard_unmap;
  std::optional<qapi::BlockdevAioOptions> aio;
  bool copy_on_read = false;
  // The image alone: what it says about a backing file is not followed.
  bool no_backing = false;
  // For whoever checks the image: see OpenContext.
  bool to_check = false;
  // For information only (NodeOptions): no key is needed, and nobody's lock is in the way of it.
  bool metadata_only = false;
  // Nobody else may write to it meanwhile, which a format asks for its file but raw does not.
  bool no_share = false;
  // It will be opened for writing later: the user is warned as then.
  bool will_write = false;
  // The name was found in an image (block/names/backing.h).
  bool recorded_name = false;
  // Writes go to a temporary overlay.
  bool snapshot = false;
  // False: a format that has to be guessed is not warned of.
  bool warn_of_guess = true;
};

// none, off, writeback, writethrough, directsync, unsafe; false for another.
bool set_cache_mode(OpenFlags& flags, std::string_view mode);
bool set_discard_mode(OpenFlags& flags, std::string_view mode);
bool set_aio_mode(OpenFlags& flags, std::string_view mode);

// KEY=VALUE,... of --image-opts and -o, as QEMU's older options read them: a comma in a value is
// doubled, a word without '=' is a switch (with a warning), or, if it comes first, the value of
// `implied_key`. Throws Error.
boost::json::object parse_image_options(std::string_view text, std::string_view implied_key = "");

// Opens the node, guessing a format that is not given. A guessed raw image is guarded: no write can
// make it look like another format. Throws Error.
Task<NodePtr> open_image(Tool& tool, ImageSource source, OpenFlags flags);

// The same, with a user on top that reads, and writes and resizes where `flags` say so.
Task<std::unique_ptr<Backend>> open_backend(Tool& tool, ImageSource source, OpenFlags flags);

}  // namespace strata::tools
