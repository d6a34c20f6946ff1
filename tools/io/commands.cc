// SPDX-License-Identifier: GPL-2.0-or-later
//
// The table of commands, with their help.
#include <algorithm>
#include <array>

#include "tools/io/shell.h"

namespace strata::tools {
namespace {

constexpr char kAioReadHelp[] =
    "\n"
    " asynchronously reads a range of bytes from the given offset\n"
    "\n"
    " Example:\n"
    " 'aio_read -v 512 1k 1k ' - dumps 2 kilobytes read from 512 bytes into the file\n"
    "\n"
    " Reads a segment of the currently open file, optionally dumping it to the\n"
    " standard output stream (with -v option) for subsequent inspection.\n"
    " The read is performed asynchronously and the aio_flush command must be\n"
    " used to ensure all outstanding aio requests have been completed.\n"
    " Note that due to its asynchronous nature, this command will be\n"
    " considered successful once the request is submitted, independently\n"
    " of potential I/O errors or pattern mismatches.\n"
    " -C, -- report statistics in a machine parsable format\n"
    " -P, -- use a pattern to verify read data\n"
    " -i, -- treat request as invalid, for exercising stats\n"
    " -v, -- dump buffer to standard output\n"
    " -q, -- quiet mode, do not show I/O statistics\n"
    " -r, -- register I/O buffer\n"
    "\n";

constexpr char kAioWriteHelp[] =
    "\n"
    " asynchronously writes a range of bytes from the given offset source\n"
    " from multiple buffers\n"
    "\n"
    " Example:\n"
    " 'aio_write 512 1k 1k' - writes 2 kilobytes at 512 bytes into the open file\n"
    "\n"
    " Writes into a segment of the currently open file, using a buffer\n"
    " filled with a set pattern (0xcdcdcdcd).\n"
    " The write is performed asynchronously and the aio_flush command must be\n"
    " used to ensure all outstanding aio requests have been completed.\n"
    " Note that due to its asynchronous nature, this command will be\n"
    " considered successful once the request is submitted, independently\n"
    " of potential I/O errors or pattern mismatches.\n"
    " -P, -- use different pattern to fill file\n"
    " -C, -- report statistics in a machine parsable format\n"
    " -f, -- use Force Unit Access semantics\n"
    " -i, -- treat request as invalid, for exercising stats\n"
    " -q, -- quiet mode, do not show I/O statistics\n"
    " -r, -- register I/O buffer\n"
    " -u, -- with -z, allow unmapping\n"
    " -z, -- write zeroes using blk_aio_pwrite_zeroes\n"
    "\n";

constexpr char kDiscardHelp[] =
    "\n"
    " discards a range of bytes from the given offset\n"
    "\n"
    " Example:\n"
    " 'discard 512 1k' - discards 1 kilobyte from 512 bytes into the file\n"
    "\n"
    " Discards a segment of the currently open file.\n"
    " -C, -- report statistics in a machine parsable format\n"
    " -q, -- quiet mode, do not show I/O statistics\n"
    "\n";

constexpr char kOpenHelp[] =
    "\n"
    " opens a new file in the requested mode\n"
    "\n"
    " Example:\n"
    " 'open -n -o driver=raw /tmp/data' - opens raw data file read-write, uncached\n"
    "\n"
    " Opens a file for subsequent use by all of the other qemu-io commands.\n"
    " -r, -- open file read-only\n"
    " -s, -- use snapshot file\n"
    " -C, -- use copy-on-read\n"
    " -n, -- disable host cache, short for -t none\n"
    " -U, -- force shared permissions\n"
    " -k, -- use kernel AIO implementation (Linux only, prefer use of -i)\n"
    " -i, -- use AIO mode (threads, native or io_uring)\n"
    " -t, -- use the given cache mode for the image\n"
    " -d, -- use the given discard mode for the image\n"
    " -o, -- options to be given to the block driver\n";

constexpr char kReadHelp[] =
    "\n"
    " reads a range of bytes from the given offset\n"
    "\n"
    " Example:\n"
    " 'read -v 512 1k' - dumps 1 kilobyte read from 512 bytes into the file\n"
    "\n"
    " Reads a segment of the currently open file, optionally dumping it to the\n"
    " standard output stream (with -v option) for subsequent inspection.\n"
    " -b, -- read from the VM state rather than the virtual disk\n"
    " -C, -- report statistics in a machine parsable format\n"
    " -l, -- length for pattern verification (only with -P)\n"
    " -p, -- ignored for backwards compatibility\n"
    " -P, -- use a pattern to verify read data\n"
    " -q, -- quiet mode, do not show I/O statistics\n"
    " -r, -- register I/O buffer\n"
    " -s, -- start offset for pattern verification (only with -P)\n"
    " -v, -- dump buffer to standard output\n"
    "\n";

constexpr char kReadvHelp[] =
    "\n"
    " reads a range of bytes from the given offset into multiple buffers\n"
    "\n"
    " Example:\n"
    " 'readv -v 512 1k 1k ' - dumps 2 kilobytes read from 512 bytes into the file\n"
    "\n"
    " Reads a segment of the currently open file, optionally dumping it to the\n"
    " standard output stream (with -v option) for subsequent inspection.\n"
    " Uses multiple iovec buffers if more than one byte range is specified.\n"
    " -C, -- report statistics in a machine parsable format\n"
    " -P, -- use a pattern to verify read data\n"
    " -v, -- dump buffer to standard output\n"
    " -q, -- quiet mode, do not show I/O statistics\n"
    " -r, -- register I/O buffer\n"
    "\n";

constexpr char kReopenHelp[] =
    "\n"
    " Changes the open options of an already opened image\n"
    "\n"
    " Example:\n"
    " 'reopen -o lazy-refcounts=on' - activates lazy refcount writeback on a qcow2 image\n"
    "\n"
    " -r, -- Reopen the image read-only\n"
    " -w, -- Reopen the image read-write\n"
    " -c, -- Change the cache mode to the given value\n"
    " -o, -- Changes block driver options (cf. 'open' command)\n"
    "\n";

constexpr char kSigraiseHelp[] =
    "\n"
    " raises the given signal\n"
    "\n"
    " Example:\n"
    " 'sigraise 15' - raises SIGTERM\n"
    "\n"
    " Invokes raise(signal), where \"signal\" is the mandatory integer argument\n"
    " given to sigraise.\n"
    "\n";

constexpr char kWriteHelp[] =
    "\n"
    " writes a range of bytes from the given offset\n"
    "\n"
    " Example:\n"
    " 'write 512 1k' - writes 1 kilobyte at 512 bytes into the open file\n"
    "\n"
    " Writes into a segment of the currently open file, using a buffer\n"
    " filled with a set pattern (0xcdcdcdcd).\n"
    " -b, -- write to the VM state rather than the virtual disk\n"
    " -c, -- write compressed data with blk_write_compressed\n"
    " -f, -- use Force Unit Access semantics\n"
    " -n, -- with -z, don't allow slow fallback\n"
    " -p, -- ignored for backwards compatibility\n"
    " -P, -- use different pattern to fill file\n"
    " -s, -- use a pattern file to fill the write buffer\n"
    " -C, -- report statistics in a machine parsable format\n"
    " -q, -- quiet mode, do not show I/O statistics\n"
    " -r, -- register I/O buffer\n"
    " -u, -- with -z, allow unmapping\n"
    " -z, -- write zeroes using blk_co_pwrite_zeroes\n"
    "\n";

constexpr char kWritevHelp[] =
    "\n"
    " writes a range of bytes from the given offset source from multiple buffers\n"
    "\n"
    " Example:\n"
    " 'writev 512 1k 1k' - writes 2 kilobytes at 512 bytes into the open file\n"
    "\n"
    " Writes into a segment of the currently open file, using a buffer\n"
    " filled with a set pattern (0xcdcdcdcd).\n"
    " -P, -- use different pattern to fill file\n"
    " -C, -- report statistics in a machine parsable format\n"
    " -f, -- use Force Unit Access semantics\n"
    " -q, -- quiet mode, do not show I/O statistics\n"
    " -r, -- register I/O buffer\n"
    "\n";

constexpr std::array<Command, 32> kCommands{{
    {.name = "abort",
     .run = command_abort,
     .min_arguments = 0,
     .max_arguments = 0,
     .needs_image = false,
     .summary = "simulate a program crash using abort(3)"},
    {.name = "aio_flush",
     .run = command_aio_flush,
     .min_arguments = 0,
     .max_arguments = 0,
     .summary = "completes all outstanding aio requests"},
    {.name = "aio_read",
     .run = command_aio_read,
     .min_arguments = 2,
     .max_arguments = -1,
     .synopsis = "[-Ciqrv] [-P pattern] off len [len..]",
     .summary = "asynchronously reads a number of bytes",
     .help = kAioReadHelp},
    {.name = "aio_write",
     .run = command_aio_write,
     .min_arguments = 2,
     .max_arguments = -1,
     .permissions = Permission::write,
     .synopsis = "[-Cfiqruz] [-P pattern] off len [len..]",
     .summary = "asynchronously writes a number of bytes",
     .help = kAioWriteHelp},
    {.name = "alloc",
     .run = command_alloc,
     .min_arguments = 1,
     .max_arguments = 2,
     .synopsis = "offset [count]",
     .summary = "checks if offset is allocated in the file"},
    {.name = "break",
     .run = command_break,
     .min_arguments = 2,
     .max_arguments = 2,
     .synopsis = "event tag",
     .summary = "sets a breakpoint on event and tags the stopped request as tag"},
    {.name = "close",
     .short_name = "c",
     .run = command_close,
     .min_arguments = 0,
     .max_arguments = 0,
     .summary = "close the current open file"},
    {.name = "discard",
     .short_name = "d",
     .run = command_discard,
     .min_arguments = 2,
     .max_arguments = -1,
     .permissions = Permission::write,
     .synopsis = "[-Cq] off len",
     .summary = "discards a number of bytes at a specified offset",
     .help = kDiscardHelp},
    {.name = "flush",
     .short_name = "f",
     .run = command_flush,
     .min_arguments = 0,
     .max_arguments = 0,
     .summary = "flush all in-core file state to disk"},
    {.name = "help",
     .short_name = "?",
     .run = command_help,
     .min_arguments = 0,
     .max_arguments = 1,
     .needs_image = false,
     .synopsis = "[command]",
     .summary = "help for one or all commands"},
    {.name = "info",
     .short_name = "i",
     .run = command_info,
     .min_arguments = 0,
     .max_arguments = 0,
     .summary = "prints information about the current file"},
    {.name = "length",
     .short_name = "l",
     .run = command_length,
     .min_arguments = 0,
     .max_arguments = 0,
     .summary = "gets the length of the current file"},
    {.name = "map",
     .run = command_map,
     .min_arguments = 0,
     .max_arguments = 0,
     .synopsis = "",
     .summary = "prints the allocated areas of a file"},
    {.name = "open",
     .short_name = "o",
     .run = command_open,
     .min_arguments = 1,
     .max_arguments = -1,
     .needs_image = false,
     .synopsis = "[-rsCnkU] [-t cache] [-d discard] [-o options] [path]",
     .summary = "open the file specified by path",
     .help = kOpenHelp},
    {.name = "quit",
     .short_name = "q",
     .run = command_quit,
     .min_arguments = 0,
     .max_arguments = -1,
     .needs_image = false,
     .summary = "exit the program"},
    {.name = "read",
     .short_name = "r",
     .run = command_read,
     .min_arguments = 2,
     .max_arguments = -1,
     .synopsis = "[-abCqrv] [-P pattern [-s off] [-l len]] off len",
     .summary = "reads a number of bytes at a specified offset",
     .help = kReadHelp},
    {.name = "readv",
     .run = command_readv,
     .min_arguments = 2,
     .max_arguments = -1,
     .synopsis = "[-Cqrv] [-P pattern] off len [len..]",
     .summary = "reads a number of bytes at a specified offset",
     .help = kReadvHelp},
    {.name = "remove_break",
     .run = command_remove_break,
     .min_arguments = 1,
     .max_arguments = 1,
     .synopsis = "tag",
     .summary = "remove a breakpoint by tag"},
    {.name = "reopen",
     .run = command_reopen,
     .min_arguments = 0,
     .max_arguments = -1,
     .synopsis = "[(-r|-w)] [-c cache] [-o options]",
     .summary = "reopens an image with new options",
     .help = kReopenHelp},
    {.name = "resume",
     .run = command_resume,
     .min_arguments = 1,
     .max_arguments = 1,
     .synopsis = "tag",
     .summary = "resumes the request tagged as tag"},
    {.name = "sigraise",
     .run = command_sigraise,
     .min_arguments = 1,
     .max_arguments = 1,
     .needs_image = false,
     .synopsis = "signal",
     .summary = "raises a signal",
     .help = kSigraiseHelp},
    {.name = "sleep",
     .run = command_sleep,
     .min_arguments = 1,
     .max_arguments = 1,
     .needs_image = false,
     .summary = "waits for the given value in milliseconds"},
    {.name = "truncate",
     .short_name = "t",
     .run = command_truncate,
     .min_arguments = 1,
     .max_arguments = 3,
     .permissions = {Permission::write, Permission::resize},
     .synopsis = "[-m prealloc_mode] off",
     .summary = "truncates the current file at the given offset"},
    {.name = "wait_break",
     .run = command_wait_break,
     .min_arguments = 1,
     .max_arguments = 1,
     .synopsis = "tag",
     .summary = "waits for the suspension of a request"},
    {.name = "write",
     .short_name = "w",
     .run = command_write,
     .min_arguments = 2,
     .max_arguments = -1,
     .permissions = Permission::write,
     .synopsis = "[-bcCfnqruz] [-P pattern | -s source_file] off len",
     .summary = "writes a number of bytes at a specified offset",
     .help = kWriteHelp},
    {.name = "writev",
     .run = command_writev,
     .min_arguments = 2,
     .max_arguments = -1,
     .permissions = Permission::write,
     .synopsis = "[-Cfqr] [-P pattern] off len [len..]",
     .summary = "writes a number of bytes at a specified offset",
     .help = kWritevHelp},
    {.name = "zone_append",
     .short_name = "zap",
     .run = command_zone_append,
     .min_arguments = 3,
     .max_arguments = 4,
     .synopsis = "offset len [len..]",
     .summary = "append write a number of bytes at a specified offset"},
    {.name = "zone_close",
     .short_name = "zc",
     .run = command_zone_close,
     .min_arguments = 2,
     .max_arguments = 2,
     .synopsis = "offset len",
     .summary = "close a range of zones in zone block device"},
    {.name = "zone_finish",
     .short_name = "zf",
     .run = command_zone_finish,
     .min_arguments = 2,
     .max_arguments = 2,
     .synopsis = "offset len",
     .summary = "finish a range of zones in zone block device"},
    {.name = "zone_open",
     .short_name = "zo",
     .run = command_zone_open,
     .min_arguments = 2,
     .max_arguments = 2,
     .synopsis = "offset len",
     .summary = "explicit open a range of zones in zone block device"},
    {.name = "zone_report",
     .short_name = "zrp",
     .run = command_zone_report,
     .min_arguments = 2,
     .max_arguments = 2,
     .synopsis = "offset number",
     .summary = "report zone information"},
    {.name = "zone_reset",
     .short_name = "zrs",
     .run = command_zone_reset,
     .min_arguments = 2,
     .max_arguments = 2,
     .synopsis = "offset len",
     .summary = "reset a zone write pointer in zone block device"},
}};

}  // namespace

std::span<const Command> commands() noexcept {
  return kCommands;
}

const Command* find_command(std::string_view name) noexcept {
  auto found = std::find_if(kCommands.begin(), kCommands.end(), [&](const Command& command) {
    return command.name == name || (!command.short_name.empty() && command.short_name == name);
  });
  return found == kCommands.end() ? nullptr : &*found;
}

}  // namespace strata::tools
