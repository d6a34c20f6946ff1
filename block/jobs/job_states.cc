// SPDX-License-Identifier: GPL-2.0-or-later
#include "block/jobs/job_states.h"

#include <array>
#include <cstddef>

namespace strata {
namespace {

constexpr size_t kStates = 11;

// A row for each state, a column for each that may follow it, both in the order of JobStatus:
// undefined, created, running, paused, ready, standby, waiting, pending, aborting, concluded, null.
constexpr std::array<const char*, kStates> kMoves{
    /* undefined */ ".c.........",
    /* created   */ "..r.....a.n",
    /* running   */ "...pR.w.a..",
    /* paused    */ "..r........",
    /* ready     */ ".....sw.a..",
    /* standby   */ "....R......",
    /* waiting   */ ".......Pa..",
    /* pending   */ "........aC.",
    /* aborting  */ "........aC.",
    /* concluded */ "..........n",
    /* null      */ "...........",
};

// A row for each verb, in the order of JobVerb, and again a column for each state.
constexpr std::array<const char*, 8> kVerbs{
    /* cancel    */ ".crpRswP...",
    /* pause     */ ".crpRs.....",
    /* resume    */ ".crpRs.....",
    /* set-speed */ ".crpRs.....",
    /* complete  */ "....R......",
    /* dismiss   */ ".........C.",
    /* finalize  */ ".......P...",
    /* change    */ "..rpRs.....",
};

}  // namespace

bool job_may_become(qapi::JobStatus from, qapi::JobStatus to) noexcept {
  return kMoves[static_cast<size_t>(from)][static_cast<size_t>(to)] != '.';
}

bool job_accepts(qapi::JobStatus status, qapi::JobVerb verb) noexcept {
  return kVerbs[static_cast<size_t>(verb)][static_cast<size_t>(status)] != '.';
}

}  // namespace strata
