// SPDX-License-Identifier: GPL-2.0-or-later
#include "tools/common/objects.h"

#include "block/base/error.h"
#include "qapi/runtime/keyval.h"
#include "qapi/visit_qom.h"
#include "tools/common/access_objects.h"

namespace strata::tools {

void define_object(const std::string& definition) {
  qapi::OptionValue option = qapi::parse_option(definition, "qom-type");
  auto object = option.is_json ? qapi::from_json<qapi::ObjectOptions>(option.value)
                               : qapi::from_keyval<qapi::ObjectOptions>(option.value);
  auto no_password = [](const std::string&) -> std::optional<std::string> { return std::nullopt; };
  if (define_access_object(object, no_password)) return;
  if (object.qom_type != qapi::ObjectType::secret)
    throw Error("Invalid parameter '{}'", qapi::to_string(object.qom_type));
  const auto& secret = *object.get_if<qapi::SecretProperties>();
  if (!secret.data && !secret.file) throw Error("Either 'file' or 'data' must be provided");
  if (secret.data && secret.file) throw Error("'file' and 'data' are mutually exclusive");
}

}  // namespace strata::tools
