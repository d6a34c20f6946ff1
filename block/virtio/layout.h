// SPDX-License-Identifier: GPL-2.0-or-later
//
// The rings' bytes, as the kernel's header spells them, without its parts that are no C++.
#pragma once

#define VIRTIO_RING_NO_LEGACY
#include <linux/virtio_ring.h>
