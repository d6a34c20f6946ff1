// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/jobs/create.h"

#include "block/base/error.h"

namespace strata {
namespace {

class CreateWork final : public JobWork {
 public:
  CreateWork(MainLoop& loop, BlockLayer& layer, const DriverDescriptor& driver,
             qapi::BlockdevCreateOptions options)
      : loop_(loop), layer_(layer), driver_(driver), options_(std::move(options)) {}

  Task<void> run(Job& job) override {
    job.set_total(1);
    std::exception_ptr error;
    try {
      co_await driver_.create_image(loop_, layer_, options_);
    } catch (...) {
      error = std::current_exception();
    }
    job.set_done(1);
    if (error) std::rethrow_exception(error);
  }

 private:
  MainLoop& loop_;
  BlockLayer& layer_;
  const DriverDescriptor& driver_;
  qapi::BlockdevCreateOptions options_;
};

}  // namespace

void start_create_job(MainLoop& loop, BlockLayer& layer, Jobs& jobs, std::string id,
                      qapi::BlockdevCreateOptions options) {
  const DriverDescriptor* driver = layer.find_driver(options.driver);
  if (driver == nullptr)
    throw Error("Block driver '{}' not found or not supported", qapi::to_string(options.driver));
  if (driver->create_image == nullptr) throw Error("Driver does not support blockdev-create");
  jobs.start(loop, {.id = std::move(id), .type = qapi::JobType::create, .auto_dismiss = false},
             std::make_unique<CreateWork>(loop, layer, *driver, std::move(options)));
}

}  // namespace strata
