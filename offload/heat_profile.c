/* The file of a heat; heat.h has the format. */
#include "offload/heat.h"

#include <assert.h>
#include <errno.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include <xxhash.h>

static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the file is written as memory is");
static_assert(HEAT_PROFILE_HEAD_BYTES == 128, "the head's layout");

static const char profile_magic[8] = "SLHEAT\0";

struct profile_head {
    char magic[8];
    uint32_t version, layers, experts, terms;
    uint64_t fingerprint, body_checksum;
    uint8_t zeros[80];
    uint64_t checksum;
};
static_assert(sizeof(struct profile_head) == HEAT_PROFILE_HEAD_BYTES, "no padding");

static size_t expert_count(const struct heat *heat)
{
    return (size_t)heat->layers * (size_t)heat->experts;
}

static size_t body_bytes(const struct heat *heat)
{
    return ((size_t)heat->layers + expert_count(heat)) * HEAT_TERMS * sizeof(float);
}

/* ---- writing ---- */

/* [HEAT_PROFILE_HEAD_BYTES + body]; NULL without memory. */
static uint8_t *encode(const struct heat *heat, uint64_t fingerprint)
{
    size_t bytes = body_bytes(heat);
    uint8_t *file = malloc(HEAT_PROFILE_HEAD_BYTES + bytes);
    if (!file) return NULL;
    float *body = (float *)(void *)(file + HEAT_PROFILE_HEAD_BYTES);
    for (int32_t layer = 0; layer < heat->layers; layer++)
        for (int32_t term = 0; term < HEAT_TERMS; term++)
            *body++ = heat->fits[layer].weights[term];
    for (int32_t term = 0; term < HEAT_TERMS; term++)
        for (int32_t i = 0; i < heat->layers * heat->experts; i++)
            *body++ = heat_count(heat, i, term);
    struct profile_head head = {.version = HEAT_PROFILE_VERSION,
                                .layers = (uint32_t)heat->layers,
                                .experts = (uint32_t)heat->experts,
                                .terms = HEAT_TERMS,
                                .fingerprint = fingerprint};
    memcpy(head.magic, profile_magic, sizeof head.magic);
    head.body_checksum = XXH3_64bits(file + HEAT_PROFILE_HEAD_BYTES, bytes);
    head.checksum = XXH3_64bits(&head, offsetof(struct profile_head, checksum));
    memcpy(file, &head, sizeof head);
    return file;
}

static enum sl_status write_file(const char *path, const void *data, size_t bytes,
                                 struct sl_error *error)
{
    FILE *file = fopen(path, "wb");
    if (!file)
        return sl_error_set(error, SL_ERR_IO, errno, "cannot create %s: %s", path, strerror(errno));
    bool ok =
        fwrite(data, 1, bytes, file) == bytes && fflush(file) == 0 && fsync(fileno(file)) == 0;
    int failure = ok ? 0 : errno;
    if (fclose(file) != 0 && ok) {
        ok = false;
        failure = errno;
    }
    if (ok) return SL_OK;
    unlink(path);
    return sl_error_set(error, SL_ERR_IO, failure, "cannot write %s: %s", path, strerror(failure));
}

enum sl_status heat_save(const struct heat *heat, const char *path, uint64_t fingerprint,
                         struct sl_error *error)
{
    size_t path_bytes = strlen(path) + sizeof ".tmp";
    char *temporary = malloc(path_bytes);
    uint8_t *data = encode(heat, fingerprint);
    enum sl_status status = SL_OK;
    if (!temporary || !data) {
        status = sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to write %s", path);
    } else {
        snprintf(temporary, path_bytes, "%s.tmp", path);
        status = write_file(temporary, data, HEAT_PROFILE_HEAD_BYTES + body_bytes(heat), error);
        if (status == SL_OK && rename(temporary, path) != 0) {
            status = sl_error_set(error, SL_ERR_IO, errno, "cannot rename %s to %s: %s", temporary,
                                  path, strerror(errno));
            unlink(temporary);
        }
    }
    free(temporary);
    free(data);
    return status;
}

/* ---- reading ---- */

static enum sl_status check_head(const struct profile_head *head, const struct heat *heat,
                                 const char *name, uint64_t fingerprint, struct sl_error *error)
{
    static const uint8_t zeros[sizeof head->zeros];
    if (memcmp(head->magic, profile_magic, sizeof head->magic) != 0)
        return sl_error_set(error, SL_ERR_FORMAT, 0, "%s is not a heat profile", name);
    if (head->version != HEAT_PROFILE_VERSION)
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                            "%s is a heat profile of version %u, this program reads version %d: "
                            "delete it, it will be made anew",
                            name, head->version, HEAT_PROFILE_VERSION);
    if (head->checksum != XXH3_64bits(head, offsetof(struct profile_head, checksum)) ||
        memcmp(head->zeros, zeros, sizeof zeros) != 0)
        return sl_error_set(error, SL_ERR_CHECKSUM, 0,
                            "the head of the heat profile %s is damaged: delete it, it will be "
                            "made anew",
                            name);
    if (head->layers != (uint32_t)heat->layers || head->experts != (uint32_t)heat->experts ||
        head->terms != HEAT_TERMS)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "the heat profile %s is of %u layers of %u experts, this model has %d "
                            "of %d",
                            name, head->layers, head->experts, (int)heat->layers,
                            (int)heat->experts);
    if (head->fingerprint != fingerprint)
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "the heat profile %s is of another model (fingerprint %016llx, not "
                            "%016llx)",
                            name, (unsigned long long)head->fingerprint,
                            (unsigned long long)fingerprint);
    return SL_OK;
}

static enum sl_status check_body(const struct profile_head *head, const struct heat *heat,
                                 const uint8_t *body, const char *name, struct sl_error *error)
{
    size_t bytes = body_bytes(heat);
    if (head->body_checksum != XXH3_64bits(body, bytes))
        return sl_error_set(error, SL_ERR_CHECKSUM, 0,
                            "the counts of the heat profile %s are damaged: delete it, they will "
                            "be made anew",
                            name);
    for (size_t i = 0; i < bytes / sizeof(float); i++) {
        float value;
        memcpy(&value, body + i * sizeof value, sizeof value);
        if (!(value >= 0 && value < 1e9f))
            return sl_error_set(error, SL_ERR_FORMAT, 0,
                                "entry %zu of the heat profile %s is no count", i, name);
    }
    return SL_OK;
}

enum sl_status heat_parse(struct heat *heat, const void *data, size_t bytes, const char *name,
                          uint64_t fingerprint, struct sl_error *error)
{
    struct profile_head head;
    const uint8_t *body = (const uint8_t *)data + HEAT_PROFILE_HEAD_BYTES;
    SL_ASSERT(heat->token_clock == HEAT_NEVER);
    if (bytes < sizeof head)
        return sl_error_set(error, SL_ERR_FORMAT, 0, "%s is not a heat profile: only %zu bytes",
                            name, bytes);
    memcpy(&head, data, sizeof head);
    SL_TRY(check_head(&head, heat, name, fingerprint, error));
    if (bytes != HEAT_PROFILE_HEAD_BYTES + body_bytes(heat))
        return sl_error_set(error, SL_ERR_FORMAT, 0,
                            "the heat profile %s has %zu bytes and should have %zu", name, bytes,
                            HEAT_PROFILE_HEAD_BYTES + body_bytes(heat));
    SL_TRY(check_body(&head, heat, body, name, error));
    for (int32_t layer = 0; layer < heat->layers; layer++) {
        memcpy(heat->fits[layer].weights, body, sizeof heat->fits[layer].weights);
        body += sizeof heat->fits[layer].weights;
    }
    for (int32_t term = 0; term < HEAT_TERMS; term++) {
        memcpy(heat->counts[term], body, expert_count(heat) * sizeof(float));
        body += expert_count(heat) * sizeof(float);
    }
    return SL_OK;
}

enum sl_status heat_load(struct heat *heat, const char *path, uint64_t fingerprint,
                         struct sl_error *error)
{
    size_t room = HEAT_PROFILE_HEAD_BYTES + body_bytes(heat) + 1; /* one more shows a longer file */
    FILE *file = fopen(path, "rb");
    if (!file)
        return sl_error_set(error, SL_ERR_IO, errno, "cannot open %s: %s", path, strerror(errno));
    uint8_t *data = malloc(room);
    enum sl_status status;
    if (!data) {
        status = sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory to read %s", path);
    } else {
        size_t bytes = fread(data, 1, room, file);
        status = ferror(file) ? sl_error_set(error, SL_ERR_IO, errno, "cannot read %s: %s", path,
                                             strerror(errno))
                              : heat_parse(heat, data, bytes, path, fingerprint, error);
    }
    free(data);
    fclose(file);
    return status;
}
