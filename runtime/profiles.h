/* What earlier runs left behind for this one: the machine's measured rates, by which the store
 * decides, and the heat of the experts, by which it starts warm. Either may be missing; one that
 * cannot be used is left out and named in a notice, unless the user asked for that very file. */
#ifndef SLUICE_RUNTIME_PROFILES_H
#define SLUICE_RUNTIME_PROFILES_H

#include "kernels/cpu_isa.h"
#include "offload/calibration.h"
#include "offload/expert_store.h"
#include "runtime/model.h"
#include "runtime/sl.h"

#define PROFILES_NOTICES_MAX 3

struct profiles {
    struct rates_profile rates;
    bool measured;                       /* `rates` holds what this machine was measured to do */
    struct topology_placement placement; /* of RAM, as was measured to be better */
    char *heat_path;                     /* where heat is kept; NULL: nowhere */
    bool heat_there;                     /* there is such a file, to start from */
    uint64_t fingerprint;                /* of the model, where a heat file was named */
    int32_t notice_count;
    char notices[PROFILES_NOTICES_MAX][SL_ERROR_MESSAGE_BYTES_MAX];
};

/* What a measurement must have been made with to be this engine's. */
struct profiles_subject {
    const struct model *model;
    const struct expert_source *source;
    enum cpu_isa isa;
    int32_t threads;
    double link_bytes_per_second; /* assumed of a device that was not measured; 0: no device */
    const char *device, *pci;     /* its name and address; NULL: none */
};

/* SL_ERR_ARGUMENT, SL_ERR_FORMAT, SL_ERR_CHECKSUM, SL_ERR_UNSUPPORTED: the machine's profile that
 * the options name is not there, damaged, or of another machine; SL_ERR_IO: the model's fingerprint
 * could not be made, or there is no folder to keep the heat in. `out` is to be closed in every
 * case.
 */
SL_MUST_USE enum sl_status profiles_open(const struct sl_engine_options *options,
                                         const struct profiles_subject *subject,
                                         struct profiles *out, struct sl_error *error);
void profiles_close(struct profiles *profiles); /* all zero is fine */

#endif
