/* labels: unit */
/* The report on a checkpoint: its sums agree with the files, and its advice is right. */
#include "offload/topology.h"
#include "runtime/model.h"
#include "runtime/model_files.h"
#include "runtime/pack.h"
#include "tests/support.h"

#include <inttypes.h>
#include <jansson.h>
#include <string.h>
#include <unistd.h>

struct fixture {
    char *directory;
    struct sl_engine_options options;
};

static int setup(void **state)
{
    struct fixture *fixture = calloc(1, sizeof *fixture);
    struct sl_error error = {.message = ""};
    assert_non_null(fixture);
    fixture->directory = test_make_directory("inspect");
    fixture->options =
        (struct sl_engine_options){.model_dir = fixture->directory, .ram_bytes = 64u << 20};
    if (sl_synth("tiny", fixture->directory, 0, 7, NULL, NULL, &error) != SL_OK)
        fail_msg("%s", error.message);
    *state = fixture;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *fixture = *state;
    test_remove_tree(fixture->directory);
    free(fixture->directory);
    free(fixture);
    return 0;
}

static char *report_of(const struct sl_engine_options *options, bool json)
{
    struct sl_error error = {.message = ""};
    char *report = NULL;
    if (sl_inspect(options, json, &report, &error) != SL_OK) fail_msg("%s", error.message);
    assert_non_null(report);
    return report;
}

static json_t *json_of(const struct sl_engine_options *options)
{
    char *text = report_of(options, true);
    json_t *report = json_loads(text, 0, NULL);
    assert_non_null(report);
    free(text);
    return report;
}

/* The number under a path such as "memory.slots"; fails the test when there is none. */
static int64_t number(const json_t *report, const char *path)
{
    char key[64];
    const json_t *value = report;
    for (const char *at = path; at; at = strchr(at, '.') ? strchr(at, '.') + 1 : NULL) {
        snprintf(key, sizeof key, "%.*s", (int)strcspn(at, "."), at);
        value = json_object_get(value, key);
    }
    if (!json_is_integer(value)) fail_msg("no number %s", path);
    return json_integer_value(value);
}

static bool fits(const json_t *report)
{
    return json_is_true(json_object_get(json_object_get(report, "memory"), "fits"));
}

static void parts_add_up_to_the_files(void **state)
{
    const struct fixture *fixture = *state;
    for (int with_mtp = 0; with_mtp <= 1; with_mtp++) {
        struct sl_engine_options options = fixture->options;
        struct model_open_options open = {.directory = fixture->directory, .want_mtp = with_mtp};
        struct model *model = NULL;
        int64_t tensors = 0, bytes = 0, mapped = 0, all_tensors = 0, all_bytes = 0;
        const char *name;
        json_t *part;
        options.with_mtp = with_mtp;
        json_t *report = json_of(&options);
        json_object_foreach(json_object_get(report, "parts"), name, part)
        {
            tensors += number(part, "tensors");
            bytes += number(part, "bytes");
            const char *place = json_string_value(json_object_get(part, "place"));
            if (strcmp(place, "mapped") == 0) mapped += number(part, "bytes");
        }
        assert_int_equal(model_open(&open, &model, NULL), SL_OK);
        const struct checkpoint_index *index = &model->files->index;
        for (int32_t f = 0; f < index->file_count; f++)
            for (size_t i = 0; i < safetensors_count(index->files[f].header); i++) {
                all_tensors++;
                all_bytes += (int64_t)safetensors_at(index->files[f].header, i)->bytes;
            }
        assert_int_equal(tensors, all_tensors);
        assert_int_equal(bytes, all_bytes);
        assert_int_equal(mapped, model->dense_bytes);
        assert_int_equal(number(report, "memory.dense_bytes"), mapped);
        json_decref(report);
        model_close(model);
    }
}

static void the_model_is_described_as_configured(void **state)
{
    const struct fixture *fixture = *state;
    struct model_config c;
    assert_int_equal(model_config_load(fixture->directory, &c, NULL), SL_OK);
    json_t *report = json_of(&fixture->options);
    int64_t experts = (int64_t)c.layers * c.experts;
    int64_t width_bytes = (int64_t)c.hidden * c.expert_width;
    assert_int_equal(number(report, "model.layers.all"), c.layers);
    assert_int_equal(number(report, "model.layers.windowed") +
                         number(report, "model.layers.ratio_4") +
                         number(report, "model.layers.ratio_128"),
                     c.layers);
    assert_int_equal(number(report, "model.layers.hash"), c.hash_layers);
    assert_int_equal(number(report, "model.experts"), c.experts);
    assert_int_equal(number(report, "parts.routed_experts.parameters"), experts * 3 * width_bytes);
    assert_int_equal(number(report, "parts.routed_experts.tensors"), experts * 6);
    assert_int_equal(number(report, "parts.routed_experts.bytes"),
                     experts * 3 * (width_bytes / 2 + width_bytes / 32));
    assert_int_equal(number(report, "parts.embedding.parameters"), (int64_t)c.vocab * c.hidden);
    assert_int_equal(number(report, "memory.experts"), experts);
    assert_int_equal(number(report, "memory.expert_disk_bytes"),
                     experts * number(report, "slot_bytes"));
    assert_string_equal(
        json_string_value(json_object_get(json_object_get(report, "model"), "checkpoint")),
        c.drafter_0731 ? "0731" : "preview");
    json_decref(report);
}

static void the_processor_is_described_with_the_threads_that_would_compute(void **state)
{
    const struct fixture *fixture = *state;
    struct sl_engine_options options = fixture->options;
    struct topology topology;
    topology_detect(&topology);
    for (int32_t threads = 0; threads <= 3; threads += 3) {
        char line[128];
        int32_t want = threads ? threads : topology.core_count;
        options.threads = threads;
        json_t *report = json_of(&options);
        char *text = report_of(&options, false);
        assert_int_equal(number(report, "processor.cores"), topology.core_count);
        assert_int_equal(number(report, "processor.nodes"), topology.node_count);
        assert_int_equal(number(report, "processor.threads"), want);
        snprintf(line, sizeof line, "processor   %s, %d thread%s\n", topology.text, (int)want,
                 want == 1 ? "" : "s");
        assert_non_null(strstr(text, line));
        free(text);
        json_decref(report);
    }
}

static void the_mtp_block_is_counted_when_it_is_loaded(void **state)
{
    const struct fixture *fixture = *state;
    struct sl_engine_options options = fixture->options;
    json_t *without = json_of(&options);
    options.with_mtp = true;
    json_t *with = json_of(&options);
    assert_true(number(without, "parts.unused.tensors") > 0);
    assert_int_equal(number(without, "parts.mtp_projections.tensors"), 0);
    assert_int_equal(number(with, "parts.unused.tensors"), 0);
    assert_int_equal(number(with, "parts.mtp_projections.tensors"), 4);
    assert_int_equal(number(with, "memory.experts") - number(without, "memory.experts"),
                     number(with, "model.experts"));
    json_decref(with);
    json_decref(without);
}

static void the_least_ram_it_names_is_the_least_that_fits(void **state)
{
    const struct fixture *fixture = *state;
    for (int packed = 0; packed <= 1; packed++) {
        struct sl_engine_options options = fixture->options;
        if (packed) assert_int_equal(sl_pack(fixture->directory, NULL, NULL, NULL, NULL), SL_OK);
        json_t *report = json_of(&options);
        int64_t least = number(report, "memory.ram_min_bytes");
        assert_true(fits(report));
        assert_int_equal(number(report, "memory.staging_bytes") == 0, packed);
        assert_int_equal(json_is_null(json_object_get(report, "experts_file")), !packed);
        json_decref(report);

        options.ram_bytes = (uint64_t)least;
        report = json_of(&options);
        assert_true(fits(report));
        assert_int_equal(number(report, "memory.slots"), number(report, "memory.slots_min"));
        json_decref(report);

        options.ram_bytes = (uint64_t)least - 1;
        report = json_of(&options);
        assert_false(fits(report));
        json_decref(report);
        char expected[64];
        char *text = report_of(&options, false);
        snprintf(expected, sizeof expected, "no: give --ram %" PRId64 " or more", least);
        assert_non_null(strstr(text, expected));
        free(text);
    }
}

static void the_text_says_what_the_json_says_in_columns(void **state)
{
    const struct fixture *fixture = *state;
    char expected[64];
    int rows = 0;
    char *text = report_of(&fixture->options, false);
    json_t *report = json_of(&fixture->options);
    snprintf(expected, sizeof expected, " %" PRId64 "  RAM, mapped, or copied to large pages",
             number(report, "parts.attention.bytes"));
    assert_non_null(strstr(text, expected));
    assert_non_null(strstr(text, fixture->directory));
    assert_non_null(strstr(text, "fits        yes"));
    /* Rows are indented; their exact bytes end in one column, two blanks before the place. */
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n")) {
        if (strncmp(line, "  ", 2) != 0) continue;
        assert_true(strlen(line) > 57);
        assert_true(line[55] >= '0' && line[55] <= '9');
        assert_int_equal(line[56], ' ');
        assert_int_equal(line[57], ' ');
        rows++;
    }
    assert_true(rows >= 12);
    json_decref(report);
    free(text);
}

static void what_cannot_be_is_an_error(void **state)
{
    const struct fixture *fixture = *state;
    struct sl_engine_options options = fixture->options;
    char *report;
    options.context_tokens = 1 << 30;
    assert_int_equal(sl_inspect(&options, false, &report, NULL), SL_ERR_ARGUMENT);
    assert_null(report);
    options = fixture->options, options.model_dir = NULL;
    assert_int_equal(sl_inspect(&options, false, &report, NULL), SL_ERR_ARGUMENT);
    options = fixture->options, options.experts_file = "no-such-file";
    assert_int_equal(sl_inspect(&options, true, &report, NULL), SL_ERR_IO);
    assert_null(report);
}

#define CASE(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(parts_add_up_to_the_files),
        CASE(the_model_is_described_as_configured),
        CASE(the_processor_is_described_with_the_threads_that_would_compute),
        CASE(the_mtp_block_is_counted_when_it_is_loaded),
        CASE(the_least_ram_it_names_is_the_least_that_fits),
        CASE(the_text_says_what_the_json_says_in_columns),
        CASE(what_cannot_be_is_an_error),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
