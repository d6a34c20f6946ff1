// SPDX-License-Identifier: GPL-2.0-or-later
#include <fmt/format.h>

#include "storage-daemon/daemon.h"
#include "storage-daemon/program/command_line.h"

namespace strata {

std::string help_text(std::string_view program) {
  return fmt::format("Usage: {} [options]\n", program) +
         R"(Serves disk images to other programs, steered by QMP.

Options are processed in their order. KEY=VALUE,... may also be written as a
JSON object.

  -h, --help             show this text and exit
  -V, --version          show the version and exit
  -T, --trace [enable=]PATTERN[,events=FILE][,file=FILE]
                         switch on trace points ('help' lists them)

  --allow-path DIRECTORY let the sandbox open what lies there, too

  --blockdev [driver=]DRIVER,node-name=NAME[,read-only=on|off]
             [,auto-read-only=on|off][,force-share=on|off]
             [,cache.direct=on|off][,cache.no-flush=on|off]
             [,discard=ignore|unmap][,detect-zeroes=on|off|unmap]
             [,OPTION OF THE DRIVER=VALUE...]
                         open a block node

  --chardev BACKEND,id=ID[,OPTION=VALUE...]
                         add a character device ('help' lists the backends)

  --config FILE          read options from FILE: a JSON object with the members
                         object, chardev, blockdev, nbd-server, export, monitor
                         (lists of objects), pidfile, metrics and daemonize

  --daemonize            go into the background once everything is set up; the
                         exit status tells whether it was

  --export [type=]nbd,id=ID,node-name=NODE[,name=NAME][,description=TEXT]
           [,writable=on|off][,iothread=ID][,allocation-depth=on|off]
           [,bitmaps.0=NAME...][,nbd-server=ID]
                         serve a node over NBD (after --nbd-server)
  --export [type=]vhost-user-blk,id=ID,node-name=NODE
           ,addr.type=unix,addr.path=PATH[,writable=on|off]
           [,iothread=ID][,num-queues=NUMBER][,logical-block-size=BYTES]
                         serve a node to a virtual machine over vhost-user
  --export [type=]vduse-blk,id=ID,node-name=NODE,name=NAME[,writable=on|off]
           [,iothread=ID][,num-queues=NUMBER][,queue-size=NUMBER]
           [,logical-block-size=BYTES][,serial=TEXT]
                         serve a node as vDPA device NAME of the kernel
  --export [type=]fuse,id=ID,node-name=NODE,mountpoint=FILE[,writable=on|off]
           [,growable=on|off][,allow-other=on|off|auto][,iothread=ID]
                         show a node as a file, in place of an existing one

  --metrics PATH|HOST:PORT
                         answer HTTP requests with counters in Prometheus's
                         text format

  --monitor [chardev=]ID[,mode=control][,pretty=on|off]
                         talk QMP on a character device

  --nbd-server addr.type=unix,addr.path=PATH[,max-connections=NUMBER]
  --nbd-server addr.type=inet,addr.host=HOST,addr.port=PORT[,...]
  --nbd-server addr.type=vsock,addr.cid=CID,addr.port=PORT[,...]
  --nbd-server addr.type=fd,addr.str=NUMBER|NAME[,...]
                         listen for NBD clients; NUMBER or NAME is that of a
                         descriptor passed in (systemd: $LISTEN_FDNAMES);
                         id=ID adds a server that exports choose by that ID

  --object TYPE,id=ID[,PROPERTY=VALUE...]
                         make an object ('help' lists the types, 'TYPE,help'
                         the properties)

  --sandbox on|off       with 'on', nothing can be opened but what lies in the
                         directories that the options name and --allow-path
                         adds, no program be run, and no other part of the
                         system be touched (default: off)

  --user NAME            become this user once everything is set up

  --pidfile PATH         write the process id to PATH, and lock it, once
                         everything is set up
)";
}

std::string version_text(std::string_view program) {
  qapi::VersionInfo version = Daemon::version();
  return fmt::format(
      "{} version {}.{}.{} ({})\n"
      "Strata, QEMU's block layer written again; GNU GPL version 2 or later, no warranty.\n",
      program, version.qemu.major, version.qemu.minor, version.qemu.micro, version.package);
}

}  // namespace strata
