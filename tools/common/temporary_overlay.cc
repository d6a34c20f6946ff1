// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/common/temporary_overlay.h"

#include <unistd.h>

#include <cerrno>
#include <cstdlib>

#include "block/base/unique_fd.h"
#include "block/graph/open.h"
#include "block/names/options.h"
#include "block/qcow2/create.h"

namespace strata::tools {
namespace {

using boost::json::object;

// A file whose name goes with it.
class TemporaryFile {
 public:
  TemporaryFile() {
    const char* directory = std::getenv("TMPDIR");
    path_ = std::string(directory != nullptr ? directory : "/var/tmp") + "/vl.XXXXXX";
    UniqueFd fd(::mkstemp(path_.data()));
    if (!fd) throw Error::from_errno(errno, "Could not get temporary filename");
  }
  ~TemporaryFile() { ::unlink(path_.c_str()); }
  TemporaryFile(const TemporaryFile&) = delete;
  TemporaryFile& operator=(const TemporaryFile&) = delete;
  const std::string& path() const noexcept { return path_; }

 private:
  std::string path_;
};

}  // namespace

Task<NodePtr> temporary_overlay(Tool& tool, NodePtr base) {
  TemporaryFile file;
  object protocol{{"driver", "file"}, {"filename", file.path()}};
  qapi::BlockdevCreateOptionsQcow2 create;
  create.file = qapi::Box<qapi::BlockdevOptions>(read_options(tool.layer(), protocol));
  create.size = base->length();
  co_await qcow2::create(tool.loop(), tool.layer(), std::move(create));
  // Nobody will look for what it holds after a crash.
  object overlay{{"driver", "qcow2"},
                 {"file", std::move(protocol)},
                 {"backing", base->name()},
                 {"cache", object{{"no-flush", "on"}}}};
  co_return co_await open_node(tool.loop(), tool.layer(),
                               read_options(tool.layer(), std::move(overlay)));
}

}  // namespace strata::tools
