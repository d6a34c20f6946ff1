// SPDX-License-Identifier: GPL-2.0-or-later
#include "storage-daemon/objects/registry.h"

#include <algorithm>
#include <array>

#include "block/base/error.h"
#include "block/graph/layer.h"
#include "storage-daemon/objects/authorization.h"
#include "storage-daemon/objects/event_loop.h"
#include "storage-daemon/objects/secret.h"
#include "storage-daemon/objects/throttle_group.h"
#include "storage-daemon/objects/tls_credentials.h"

namespace strata {

using qapi::ObjectType;

std::span<const CreatableType> creatable_types() noexcept {
  static const std::array kTypes{
      CreatableType{ObjectType::authz_list, "authz", AuthzListObject::property_table()},
      CreatableType{ObjectType::authz_listfile, "authz", AuthzListFileObject::property_table()},
      CreatableType{ObjectType::authz_pam, "authz", AuthzPamObject::property_table()},
      CreatableType{ObjectType::authz_simple, "authz", AuthzSimpleObject::property_table()},
      CreatableType{ObjectType::iothread, "event-loop-base", IothreadObject::property_table()},
      CreatableType{ObjectType::main_loop, "event-loop-base", MainLoopObject::property_table()},
      CreatableType{ObjectType::secret, "secret_common", SecretObject::property_table()},
      CreatableType{ObjectType::throttle_group, "object", ThrottleGroupObject::property_table()},
      CreatableType{ObjectType::tls_creds_anon, "tls-creds", TlsAnonObject::property_table()},
      CreatableType{ObjectType::tls_creds_psk, "tls-creds", TlsPskObject::property_table()},
      CreatableType{ObjectType::tls_creds_x509, "tls-creds", TlsX509Object::property_table()},
  };
  return kTypes;
}

std::string creatable_types_help() {
  std::string text = "List of user creatable objects:\n";
  for (const CreatableType& type : creatable_types())
    text += fmt::format("  {}\n", to_string(type.type));
  return text;
}

std::string properties_help(const CreatableType& type) {
  std::vector<std::string> lines;
  for (const Property& property : type.properties) {
    if (property.is_option)
      lines.push_back(fmt::format("  {}=<{}>\n", property.name, property.type));
  }
  std::ranges::sort(lines);
  std::string text = fmt::format("{} options:\n", to_string(type.type));
  for (const std::string& line : lines) text += line;
  return text;
}

UserObject* ObjectRegistry::find(std::string_view id) const noexcept {
  for (const auto& object : objects_) {
    if (object->id() == id) return object.get();
  }
  return nullptr;
}

std::optional<std::string> ObjectRegistry::find_secret(std::string_view id) const {
  const auto* secret = find_as<SecretObject>(id);
  if (secret == nullptr) return std::nullopt;
  return secret->value();
}

std::unique_ptr<UserObject> ObjectRegistry::make(MainLoop& loop,
                                                 const qapi::ObjectOptions& options) const {
  switch (options.qom_type) {
    case ObjectType::iothread:
      return std::make_unique<IothreadObject>(options.id,
                                              *options.get_if<qapi::IothreadProperties>());
    case ObjectType::main_loop:
      for (const auto& object : objects_) {
        if (dynamic_cast<MainLoopObject*>(object.get()) != nullptr)
          throw Error("only one main-loop instance allowed");
      }
      return std::make_unique<MainLoopObject>(loop, options.id,
                                              *options.get_if<qapi::MainLoopProperties>());
    case ObjectType::secret:
      return std::make_unique<SecretObject>(
          options.id, *options.get_if<qapi::SecretProperties>(),
          [this](std::string_view id) { return find_secret(id); });
    case ObjectType::throttle_group:
      return std::make_unique<ThrottleGroupObject>(
          options.id, *options.get_if<qapi::ThrottleGroupProperties>());
    default:
      break;
  }
  if (auto made = make_tls_object(options)) return made;
  if (auto made = make_authz_object(options)) return made;
  throw Error("invalid object type: {}", to_string(options.qom_type));
}

namespace {

template <class Object, class Options, class Made>
std::unique_ptr<UserObject> wrap(const qapi::ObjectOptions& from, const Options& options,
                                 Made made) {
  return std::make_unique<Object>(from.id, to_string(from.qom_type), options, std::move(made));
}

}  // namespace

// Null for another type.
std::unique_ptr<UserObject> ObjectRegistry::make_tls_object(
    const qapi::ObjectOptions& options) const {
  if (const auto* anonymous = options.get_if<qapi::TlsCredsAnonProperties>())
    return wrap<TlsAnonObject>(options, *anonymous, make_tls_credentials(*anonymous));
  if (const auto* psk = options.get_if<qapi::TlsCredsPskProperties>())
    return wrap<TlsPskObject>(options, *psk, make_tls_credentials(*psk));
  const auto* x509 = options.get_if<qapi::TlsCredsX509Properties>();
  if (x509 == nullptr) return nullptr;
  auto find = [this](const std::string& id) -> std::optional<std::string> {
    const auto* secret = find_as<SecretObject>(id);
    if (secret == nullptr) return std::nullopt;
    return secret->value();
  };
  return wrap<TlsX509Object>(options, *x509, make_tls_credentials(*x509, find));
}

// Null for another type.
std::unique_ptr<UserObject> ObjectRegistry::make_authz_object(
    const qapi::ObjectOptions& options) const {
  if (const auto* list = options.get_if<qapi::AuthZListProperties>())
    return wrap<AuthzListObject>(options, *list, make_authorization(*list));
  if (const auto* file = options.get_if<qapi::AuthZListFileProperties>())
    return wrap<AuthzListFileObject>(options, *file, make_authorization(*file));
  if (const auto* simple = options.get_if<qapi::AuthZSimpleProperties>())
    return wrap<AuthzSimpleObject>(options, *simple, make_authorization(*simple));
  if (const auto* pam = options.get_if<qapi::AuthZPAMProperties>())
    return wrap<AuthzPamObject>(options, *pam, make_authorization(*pam));
  return nullptr;
}

std::shared_ptr<TlsCredentials> ObjectRegistry::find_tls_credentials(std::string_view id) const {
  const UserObject* object = find(id);
  if (object == nullptr) throw Error("No TLS credentials with id '{}'", id);
  const auto* credentials = dynamic_cast<const TlsCredentialsObject*>(object);
  if (credentials == nullptr) throw Error("Object with id '{}' is not TLS credentials", id);
  return credentials->credentials();
}

void ObjectRegistry::add(MainLoop& loop, const qapi::ObjectOptions& options) {
  if (!is_wellformed_id(options.id))
    throw Error("Parameter 'id' expects an identifier")
        .hint("Identifiers consist of letters, digits, '-', '.', '_', starting with a letter.\n");
  std::unique_ptr<UserObject> object = make(loop, options);
  if (find(options.id) != nullptr)
    throw Error("attempt to add duplicate property '{}' to object (type 'container')", options.id);
  objects_.push_back(std::move(object));
}

void ObjectRegistry::remove(MainLoop&, std::string_view id) {
  UserObject* object = find(id);
  if (object == nullptr) throw Error("object '{}' not found", id);
  if (!object->can_be_deleted() || in_use_(*object))
    throw Error("object '{}' is in use, can not be deleted", id);
  std::erase_if(objects_, [object](const auto& owned) { return owned.get() == object; });
}

void ObjectRegistry::remove_all(MainLoop&) noexcept {
  while (!objects_.empty()) objects_.pop_back();
}

}  // namespace strata
