/* What earlier runs left behind; see the header. */
#include "runtime/profiles.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void note(struct profiles *profiles, const char *sentence)
{
    SL_ASSERT(profiles->notice_count < PROFILES_NOTICES_MAX);
    snprintf(profiles->notices[profiles->notice_count++], SL_ERROR_MESSAGE_BYTES_MAX, "%s",
             sentence);
}

/* Where RAM is to lie: near a device that is there, if that was measured to be better. */
static void choose_placement(const struct calibration *found, const char *pci,
                             struct topology_placement *out)
{
    const struct calibration_placed *turn = &found->in_turn, *near = &found->near;
    *out = (struct topology_placement){.spread = TOPOLOGY_IN_TURN};
    if (!pci || near->up <= 0) return;
    out->spread = found->spread;
    snprintf(out->device, sizeof out->device, "%s", pci);
    snprintf(out->why, sizeof out->why, "CPU and link at once %.1f GB/s near it, %.1f in turn",
             (near->cpu + near->up) / 1e9, (turn->cpu + turn->up) / 1e9);
}

/* The lanes that were not measured, as assumed; the device's only where there is one. */
static void fill_lanes(struct rates_profile *rates, const struct profiles_subject *subject)
{
    struct rates_profile assumed;
    double link = subject->link_bytes_per_second;
    struct rates_machine machine = {.device = link > 0 ? RATES_DEVICE_BYTES_PER_SECOND : 0,
                                    .link = link,
                                    .cpu = rates->lanes[RATES_CPU].bytes_per_second,
                                    .disk = RATES_DISK_BYTES_PER_SECOND};
    rates_profile_make(&assumed, rates->expert_bytes, &machine);
    for (int32_t lane = 0; lane < RATES_LANES; lane++)
        if (rates->lanes[lane].bytes_per_second == 0) {
            rates->lanes[lane] = assumed.lanes[lane];
            if (lane == RATES_DISK)
                memcpy(rates->disk_bytes_per_second, assumed.disk_bytes_per_second,
                       sizeof assumed.disk_bytes_per_second);
        }
}

static enum sl_status load_machine(const char *path, const struct profiles_subject *subject,
                                   struct profiles *out, struct sl_error *error)
{
    struct calibration found;
    struct calibration_machine here;
    SL_TRY(calibration_load(path, &found, error));
    calibration_machine_here(subject->source->files[0].path, subject->device,
                             cpu_isa_name(subject->isa), subject->threads, &here);
    SL_TRY(calibration_check(&found, &here, subject->source->slot_bytes, (int64_t)time(NULL), path,
                             error));
    calibration_rates(&found, subject->device != NULL, &out->rates);
    if (subject->device && out->rates.lanes[RATES_UP].bytes_per_second == 0) {
        char sentence[SL_ERROR_MESSAGE_BYTES_MAX];
        snprintf(sentence, sizeof sentence,
                 "%.300s was measured without this device (%.96s): its lanes are assumed; measure "
                 "again with 'sluice bench host'",
                 path, subject->device);
        note(out, sentence);
    }
    fill_lanes(&out->rates, subject);
    choose_placement(&found, subject->pci, &out->placement);
    out->measured = true;
    return SL_OK;
}

static enum sl_status open_machine(const struct sl_engine_options *options,
                                   const struct profiles_subject *subject, struct profiles *out,
                                   struct sl_error *error)
{
    char path[4096];
    if (options->machine_profile) {
        if (!*options->machine_profile) return SL_OK;
        return load_machine(options->machine_profile, subject, out, error);
    }
    if (!calibration_default_path(path, sizeof path) || access(path, F_OK) != 0) return SL_OK;
    struct sl_error refusal;
    if (load_machine(path, subject, out, &refusal) != SL_OK) note(out, refusal.message);
    return SL_OK;
}

/* Whether the file could be made at the end; better known before the work than after it. */
static enum sl_status check_folder(const char *path, struct sl_error *error)
{
    const char *slash = strrchr(path, '/');
    char *folder = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    if (!folder) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory");
    int code = access(folder, W_OK | X_OK) == 0 ? 0 : errno;
    free(folder);
    if (!code) return SL_OK;
    return sl_error_set(error, SL_ERR_IO, code, "cannot keep a profile in %s: %s", path,
                        strerror(code));
}

enum sl_status profiles_open(const struct sl_engine_options *options,
                             const struct profiles_subject *subject, struct profiles *out,
                             struct sl_error *error)
{
    *out = (struct profiles){0};
    SL_TRY(open_machine(options, subject, out, error));
    if (!options->heat_profile) return SL_OK;
    SL_TRY(check_folder(options->heat_profile, error));
    SL_TRY(model_fingerprint(subject->model, &out->fingerprint, error));
    out->heat_path = strdup(options->heat_profile);
    if (!out->heat_path) return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "out of memory");
    /* Before the first run there is none, which is nothing to speak of. */
    out->heat_there = access(out->heat_path, F_OK) == 0;
    return SL_OK;
}

void profiles_close(struct profiles *profiles)
{
    free(profiles->heat_path);
    profiles->heat_path = NULL;
}
