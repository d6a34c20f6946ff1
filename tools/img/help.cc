// SPDX-License-Identifier: GPL-2.0-or-later
//
// The table of sub-commands, and the help.
#include <algorithm>

#include "tools/img/command.h"

namespace strata::tools {
namespace {

constexpr Subcommand kSubcommands[]{
    {"amend", run_amend, "Change format specific options of an image.",
     "[--object objectdef] [--image-opts] [-p] [-q] [-f fmt] [-t cache] [--force] -o options "
     "filename"},
    {"bench", run_bench, "Measure how fast an image takes requests.",
     "[-c count] [-d depth] [-f fmt] [--flush-interval=flush_interval] [-i aio] [-n] "
     "[--no-drain] [-o offset] [--pattern=pattern] [-q] [-s buffer_size] [-S "
     "step_size] [-t cache] [-w] [-U] filename"},
    {"bitmap", run_bitmap, "Work on the persistent bitmaps of an image.",
     "(--merge SOURCE | --add | --remove | --clear | --enable | --disable)... [-b "
     "source_file [-F source_fmt]] [-g granularity] [--object objectdef] [--image-opts | "
     "-f fmt] filename bitmap"},
    {"check", run_check, "Look for errors in an image, and repair it.",
     "[--object objectdef] [--image-opts] [-q] [-f fmt] [--output=ofmt] [-r [leaks | "
     "all]] [-T src_cache] [-U] filename"},
    {"commit", run_commit, "Write what an image holds into its backing file.",
     "[--object objectdef] [--image-opts] [-q] [-f fmt] [-t cache] [-b base] [-r rate_limit] "
     "[-d] [-p] filename"},
    {"compare", run_compare, "Tell whether two images have the same contents.",
     "[--object objectdef] [--image-opts] [-f fmt] [-F fmt] [-T src_cache] [-p] [-q] "
     "[-s] [-U] filename1 filename2"},
    {"convert", run_convert, "Copy an image, or several one behind the other, to another format.",
     "[--object objectdef] [--image-opts] [--target-image-opts] [--target-is-zero] "
     "[--bitmaps] [-U] [-C] [-c [--compression-level level]] [-p] [-q] [-n] [-f fmt] "
     "[-t cache] [-T src_cache] "
     "[-O output_fmt] [-B backing_file [-F backing_fmt]] [-o options] [-l "
     "snapshot_param] [-S sparse_size] [-r rate_limit] [-m num_coroutines] [-W] "
     "[--salvage] filename [filename2 [...]] output_filename"},
    {"create", run_create, "Make a new image.",
     "[--object objectdef] [-q] [-f fmt] [-b backing_file [-F backing_fmt]] [-u] [-o "
     "options] filename [size]"},
    {"dd", run_dd, "Copy an image in blocks.",
     "[--image-opts] [-U] [-f fmt] [-O output_fmt] [bs=block_size] [count=blocks] "
     "[skip=blocks] if=input of=output"},
    {"info", run_info, "Tell of an image and its format.",
     "[--object objectdef] [--image-opts] [-f fmt] [--output=ofmt] [--backing-chain] [--limits] "
     "[-t cache] "
     "[-U] filename"},
    {"map", run_map, "Tell where the parts of an image are stored.",
     "[--object objectdef] [--image-opts] [-f fmt] [--start-offset=offset] "
     "[--max-length=len] [--output=ofmt] [-U] filename"},
    {"measure", run_measure, "Tell how large a file a new image would need.",
     "[--output=ofmt] [-O output_fmt] [-o options] [--size N | [--object objectdef] "
     "[--image-opts] [-f fmt] [-l snapshot_param] filename]"},
    {"rebase", run_rebase, "Give an image another backing file.",
     "[--object objectdef] [--image-opts] [-U] [-q] [-f fmt] [-t cache] [-T src_cache] [-p] "
     "[-u] [-c] -b backing_file [-B backing_fmt] filename"},
    {"resize", run_resize, "Change the size of an image.",
     "[--object objectdef] [--image-opts] [-f fmt] [--preallocation=prealloc] [-q] "
     "[--shrink] filename [+ | -]size"},
    {"snapshot", run_snapshot, "List, make, apply or delete snapshots inside an image.",
     "[--object objectdef] [-f fmt | --image-opts] [-U] [-q] [-l | -a snapshot | -c "
     "snapshot | -d snapshot] filename"},
};

constexpr char kParameters[] =
    "Command parameters:\n"
    "  'filename' is a disk image filename\n"
    "  'objectdef' is a QEMU user creatable object definition. See the qemu(1)\n"
    "    manual page for a description of the object properties. The most common\n"
    "    object type is a 'secret', which is used to supply passwords and/or\n"
    "    encryption keys.\n"
    "  'fmt' is the disk image format. It is guessed automatically in most cases\n"
    "  'cache' is the cache mode used to write the output disk image, the valid\n"
    "    options are: 'none', 'writeback' (default, except for convert), 'writethrough',\n"
    "    'directsync' and 'unsafe' (default for convert)\n"
    "  'src_cache' is the cache mode used to read input disk images, the valid\n"
    "    options are the same as for the 'cache' option\n"
    "  'size' is the disk image size in bytes. Optional suffixes\n"
    "    'k' or 'K' (kilobyte, 1024), 'M' (megabyte, 1024k), 'G' (gigabyte, 1024M),\n"
    "    'T' (terabyte, 1024G), 'P' (petabyte, 1024T) and 'E' (exabyte, 1024P)  are\n"
    "    supported. 'b' is ignored.\n"
    "  'output_filename' is the destination disk image filename\n"
    "  'output_fmt' is the destination format\n"
    "  'options' is a comma separated list of format specific options in a\n"
    "    name=value format. Use -o help for an overview of the options supported by\n"
    "    the used format\n"
    "  'snapshot_param' is param used for internal snapshot, format\n"
    "    is 'snapshot.id=[ID],snapshot.name=[NAME]', or\n"
    "    '[ID_OR_NAME]'\n"
    "  '-c' indicates that target image must be compressed (qcow format only)\n"
    "  '-u' allows unsafe backing chains. For rebasing, it is assumed that old and\n"
    "       new backing file match exactly. The image doesn't need a working\n"
    "       backing file before rebasing in this case (useful for renaming the\n"
    "       backing file). For image creation, allow creating without attempting\n"
    "       to open the backing file.\n"
    "  '-h' with or without a command shows this help and lists the supported formats\n"
    "  '-p' show progress of command (only certain commands)\n"
    "  '-q' use Quiet mode - do not print any output (except errors)\n"
    "  '-S' indicates the consecutive number of bytes (defaults to 4k) that must\n"
    "       contain only zeros for qemu-img to create a sparse image during\n"
    "       conversion. If the number of bytes is 0, the source will not be scanned for\n"
    "       unallocated or zero sectors, and the destination image will always be\n"
    "       fully allocated\n"
    "  '--output' takes the format in which the output must be done (human or json)\n"
    "  '-n' skips the target volume creation (useful if the volume is created\n"
    "       prior to running qemu-img)\n"
    "\n"
    "Parameters to bitmap subcommand:\n"
    "  'bitmap' is the name of the bitmap to manipulate, through one or more\n"
    "       actions from '--add', '--remove', '--clear', '--enable', '--disable',\n"
    "       or '--merge source'\n"
    "  '-g granularity' sets the granularity for '--add' actions\n"
    "  '-b source' and '-F src_fmt' tell '--merge' actions to find the source\n"
    "       bitmaps from an alternative file\n"
    "\n"
    "Parameters to check subcommand:\n"
    "  '-r' tries to repair any inconsistencies that are found during the check.\n"
    "       '-r leaks' repairs only cluster leaks, whereas '-r all' fixes all\n"
    "       kinds of errors, with a higher risk of choosing the wrong fix or\n"
    "       hiding corruption that has already occurred.\n"
    "\n"
    "Parameters to convert subcommand:\n"
    "  '--bitmaps' copies all top-level persistent bitmaps to destination\n"
    "  '-m' specifies how many coroutines work in parallel during the convert\n"
    "       process (defaults to 8)\n"
    "  '-W' allow to write to the target out of order rather than sequential\n"
    "  '--compression-level' with '-c' packs as densely as zlib (1 to 9) or zstd\n"
    "       (1 to 22) does at that level, rather than as fast as possible\n"
    "\n"
    "Parameters to snapshot subcommand:\n"
    "  'snapshot' is the name of the snapshot to create, apply or delete\n"
    "  '-a' applies a snapshot (revert disk to saved state)\n"
    "  '-c' creates a snapshot\n"
    "  '-d' deletes a snapshot\n"
    "  '-l' lists all snapshots in the given image\n"
    "\n"
    "Parameters to compare subcommand:\n"
    "  '-f' first image format\n"
    "  '-F' second image format\n"
    "  '-s' run in Strict mode - fail on different image size or sector allocation\n"
    "\n"
    "Parameters to dd subcommand:\n"
    "  'bs=BYTES' read and write up to BYTES bytes at a time (default: 512)\n"
    "  'count=N' copy only N input blocks\n"
    "  'if=FILE' read from FILE\n"
    "  'of=FILE' write to FILE\n"
    "  'skip=N' skip N bs-sized blocks at the start of input\n"
    "\n";

}  // namespace

std::span<const Subcommand> subcommands() noexcept {
  return kSubcommands;
}

void print_help(const BlockLayer& layer) {
  print_version();
  fmt::print(
      "usage: {} [standard options] command [command options]\n"
      "QEMU disk image utility\n\n"
      "    '-h', '--help'       display this help and exit\n"
      "    '-V', '--version'    output version information and exit\n"
      "    '-T', '--trace'      [[enable=]<pattern>][,events=<file>][,file=<file>]\n"
      "                         specify tracing options\n\n"
      "Command syntax:\n",
      program_name());
  for (const Subcommand& command : kSubcommands)
    fmt::print("  {} {}\n", command.name, command.synopsis);
  fmt::print("\n{}Supported formats:", kParameters);
  std::vector<std::string_view> names;
  for (const DriverDescriptor* driver : layer.drivers()) names.push_back(driver->format_name());
  std::sort(names.begin(), names.end());
  for (std::string_view name : names) fmt::print(" {}", name);
  fmt::print(
      "\n\nSee <https://qemu.org/contribute/report-a-bug> for how to report bugs.\n"
      "More information on the QEMU project at <https://qemu.org>.\n");
}

void print_command_help(const Subcommand& command, std::span<const Option> options) {
  fmt::print("{}  Usage:\n\n  {} {} {}\n\nOptions:\n", command.summary, program_name(),
             command.name, command.synopsis);
  for (const Option& option : options) fmt::print("  {}\n     {}\n", option.spelling, option.help);
}

}  // namespace strata::tools
