/* Options of a tokenizer.json that have to be off or absent; see the header. */
#include "runtime/tokenizer_options.h"

#include <string.h>

static enum sl_status refuse(const char *path, const char *where, const char *option,
                             const char *expected, struct sl_error *error)
{
    return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                        "%s: %s.%s must be %s; other values are not supported", path, where, option,
                        expected);
}

/* Absent, null, and the two ways of writing "nothing". */
static bool is_off(const json_t *value)
{
    if (!value || json_is_null(value) || json_is_false(value)) return true;
    return json_is_string(value) && json_string_length(value) == 0;
}

static bool has_type(const json_t *object, const char *type)
{
    const char *found = json_string_value(json_object_get(object, "type"));
    return found && strcmp(found, type) == 0;
}

static enum sl_status check_off(const json_t *object, const char *where, const char *const *options,
                                const char *path, struct sl_error *error)
{
    for (; *options; options++)
        if (!is_off(json_object_get(object, *options)))
            return refuse(path, where, *options, "off or absent", error);
    return SL_OK;
}

static enum sl_status check_normalizer(const json_t *normalizer, const char *path,
                                       struct sl_error *error)
{
    if (is_off(normalizer)) return SL_OK;
    const json_t *steps = json_object_get(normalizer, "normalizers");
    if (has_type(normalizer, "Sequence") && json_is_array(steps) && json_array_size(steps) == 0)
        return SL_OK;
    return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                        "%s: it has a normalizer; only files that leave text as it is (null, or an "
                        "empty Sequence) are supported",
                        path);
}

enum sl_status tokenizer_options_check(const json_t *file, const char *path, struct sl_error *error)
{
    static const char *const file_off[] = {"truncation", "padding", NULL};
    static const char *const model_off[] = {
        "dropout",
        "unk_token",
        "continuing_subword_prefix",
        "end_of_word_suffix",
        "byte_fallback",
        "ignore_merges",
        NULL,
    };
    const json_t *model = json_object_get(file, "model");
    if (!json_is_object(model))
        return sl_error_set(error, SL_ERR_FORMAT, 0, "%s: there is no \"model\"", path);
    if (!has_type(model, "BPE")) return refuse(path, "model", "type", "\"BPE\"", error);
    SL_TRY(check_off(model, "model", model_off, path, error));
    SL_TRY(check_off(file, "the file", file_off, path, error));
    SL_TRY(check_normalizer(json_object_get(file, "normalizer"), path, error));

    static const char *const byte_level[] = {"post_processor", "decoder"};
    for (size_t i = 0; i < SL_COUNT_OF(byte_level); i++) {
        const json_t *step = json_object_get(file, byte_level[i]);
        if (!is_off(step) && !has_type(step, "ByteLevel"))
            return refuse(path, byte_level[i], "type", "\"ByteLevel\"", error);
    }
    return SL_OK;
}

enum sl_status tokenizer_options_check_added(const json_t *token, const char *content,
                                             const char *path, struct sl_error *error)
{
    static const char *const off[] = {"single_word", "lstrip", "rstrip"};
    for (size_t i = 0; i < SL_COUNT_OF(off); i++)
        if (!is_off(json_object_get(token, off[i])))
            return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                                "%s: the added token \"%s\" has %s, which is not supported", path,
                                content, off[i]);
    return SL_OK;
}

enum sl_status tokenizer_options_check_byte_level(const json_t *step, const char *path,
                                                  struct sl_error *error)
{
    static const char *const off[] = {"add_prefix_space", "use_regex"};
    for (size_t i = 0; i < SL_COUNT_OF(off); i++)
        if (!json_is_false(json_object_get(step, off[i])))
            return refuse(path, "pre_tokenizer ByteLevel", off[i], "false", error);
    return SL_OK;
}
