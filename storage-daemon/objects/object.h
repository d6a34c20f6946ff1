// SPDX-License-Identifier: GPL-2.0-or-later
#pragma once

#include <boost/json/value.hpp>
#include <span>
#include <string>
#include <string_view>

namespace strata {

class UserObject;

// What qom-get and qom-set see of an object. A property without a setter is not writable.
struct Property {
  std::string_view name;
  std::string_view type;
  boost::json::value (*get)(const UserObject& object);
  // Takes a value of any JSON type; throws Error.
  void (*set)(UserObject& object, const boost::json::value& value) = nullptr;
  // Whether --object TYPE,help lists it.
  bool is_option = true;
};

// An object made by object-add or --object. Main loop only.
class UserObject {
 public:
  UserObject(std::string id, std::string_view type) : id_(std::move(id)), type_(type) {}
  virtual ~UserObject() = default;
  UserObject(const UserObject&) = delete;
  UserObject& operator=(const UserObject&) = delete;

  const std::string& id() const noexcept { return id_; }
  std::string_view type() const noexcept { return type_; }
  virtual std::span<const Property> properties() const noexcept = 0;
  virtual bool can_be_deleted() const noexcept { return true; }

 private:
  std::string id_;
  std::string_view type_;
};

// A value of the type a property has; throws "Invalid parameter type for '...', expected: ...".
int64_t integer_of(const boost::json::value& value, std::string_view property);
std::string string_of(const boost::json::value& value, std::string_view property);

}  // namespace strata
