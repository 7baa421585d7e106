/* What sl_simulate and sl_plan share: the engine's simulator fed by a preset or a recorded trace.
 *
 * Cold path, the caller's thread; nothing is kept. */
#ifndef SLUICE_RUNTIME_SIMULATION_H
#define SLUICE_RUNTIME_SIMULATION_H

#include "offload/simulate.h"
#include "runtime/sl.h"

/* Runs the simulation; `*used` are the options it came down to. The statuses of sl_simulate. */
SL_MUST_USE enum sl_status simulation_run(const struct sl_simulation *simulation,
                                          struct simulate_options *used,
                                          struct simulate_result *result, struct sl_error *error);

/* The machine's rates as the simulator wants them. */
struct rates_machine simulation_rates(const struct sl_machine *machine);

#endif
