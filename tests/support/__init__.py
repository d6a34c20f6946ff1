# SPDX-License-Identifier: GPL-2.0-or-later
"""What the QMP and interop tests share: a daemon to start, clients to speak to it."""
