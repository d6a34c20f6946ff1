// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/drivers/builtin.h"

#include <array>

#include "block/crypto/luks_driver.h"
#include "block/drivers/blkdebug/blkdebug.h"
#include "block/drivers/compress.h"
#include "block/drivers/copy_on_read.h"
#include "block/drivers/file/file.h"
#include "block/drivers/nbd/nbd.h"
#include "block/drivers/null/null.h"
#include "block/drivers/raw/raw.h"
#include "block/qcow2/qcow2.h"

namespace strata {

std::span<const DriverDescriptor* const> builtin_drivers() noexcept {
  static constexpr std::array kDrivers{
      &kBlkdebugDriver,   &kCompressDriver, &kCopyOnReadDriver, &kFileDriver,
      &kHostDeviceDriver, &kLuksDriver,     &kNbdDriver,        &kNullAioDriver,
      &kNullCoDriver,     &kQcow2Driver,    &kRawDriver,
  };
  return kDrivers;
}

}  // namespace strata
