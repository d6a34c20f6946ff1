// SPDX-License-Identifier: GPL-2.0-or-later
//
// Certificates in files: whether they can ever work, said before anybody tries.
#pragma once

#include <string>

namespace strata {

// Paths; empty where there is none.
struct CertificateFiles {
  std::string ca;
  std::string crl;
  std::string certificate;
  std::string key;
  bool is_server = false;
};

// Validity, constraints, purposes and signatures. Throws Error.
void check_certificates(const CertificateFiles& files);

// The text of a file of at most `most` bytes. Throws Error.
std::string read_credentials_file(const std::string& path, size_t most);

}  // namespace strata
