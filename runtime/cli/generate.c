/* The token loop; see the header. */
#include "runtime/cli/generate.h"

#include "runtime/cli/interrupt.h"
#include "runtime/cli/quantity.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define DIM   "\033[2m"
#define PLAIN "\033[0m"

/* Where the text goes and what the special tokens do to it. */
struct writer {
    const sl_tokenizer *tokenizer; /* NULL: ids are written instead */
    FILE *output;
    bool colour, dim;
    int32_t eos_id, user_id, think_start_id, think_end_id; /* -1: there is none */
    struct sl_text_stream stream;
    struct grow_text *text;
    size_t shown_bytes; /* of the text */
};

static void writer_init(struct writer *writer, const struct generate_args *args,
                        struct generate_result *result)
{
    const sl_tokenizer *tokenizer = sl_engine_tokenizer(args->engine);
    *writer = (struct writer){
        .tokenizer = tokenizer,
        .output = args->output,
        .colour = args->output && progress_colour(args->output),
        .eos_id = sl_engine_info(args->engine).eos_id,
        .user_id = tokenizer ? sl_tokenizer_added_id(tokenizer, "<｜User｜>") : -1,
        .think_start_id = tokenizer ? sl_tokenizer_added_id(tokenizer, "<think>") : -1,
        .think_end_id = tokenizer ? sl_tokenizer_added_id(tokenizer, "</think>") : -1,
        .text = &result->text,
    };
}

static void set_dim(struct writer *writer, bool dim)
{
    if (!writer->colour || writer->dim == dim) return;
    fputs(dim ? DIM : PLAIN, writer->output);
    writer->dim = dim;
}

static enum sl_status show(struct writer *writer, struct sl_error *error)
{
    if (!writer->output) return SL_OK;
    errno = 0;
    fwrite(writer->text->data + writer->shown_bytes, 1, writer->text->bytes - writer->shown_bytes,
           writer->output);
    writer->shown_bytes = writer->text->bytes;
    if (fflush(writer->output) == 0) return SL_OK;
    return sl_error_set(error, SL_ERR_IO, errno, "cannot write the text: %s", strerror(errno));
}

static enum sl_status write_token(struct writer *writer, int32_t id, struct sl_error *error)
{
    enum sl_status status = SL_OK;
    if (writer->tokenizer) {
        size_t bytes = 0;
        const char *data = sl_tokenizer_bytes(writer->tokenizer, id, &bytes);
        /* A push of no bytes would flush the held tail. */
        if (bytes) status = grow_text_stream(writer->text, &writer->stream, data, bytes, error);
    } else {
        char number[16];
        int bytes = snprintf(number, sizeof number, writer->text->bytes ? " %d" : "%d", id);
        status = grow_text_append(writer->text, number, (size_t)bytes, error);
    }
    if (status != SL_OK) return status;
    if (id == writer->think_start_id) set_dim(writer, true);
    status = show(writer, error);
    if (id == writer->think_end_id) set_dim(writer, false);
    return status;
}

/* Writes what an unfinished character left behind. */
static enum sl_status writer_finish(struct writer *writer, struct sl_error *error)
{
    enum sl_status status = grow_text_stream(writer->text, &writer->stream, NULL, 0, error);
    if (status == SL_OK) status = show(writer, error);
    set_dim(writer, false);
    return status;
}

/* The prompt's progress, and how much of it the session held already. */
struct prefill {
    struct progress *progress;
    size_t reused_tokens;
    bool called;
};

static bool on_prefill(void *context, size_t done, size_t total)
{
    struct prefill *prefill = context;
    if (!prefill->called) prefill->reused_tokens = done;
    prefill->called = true;
    return progress_prefill(prefill->progress, done, total);
}

static enum sl_status read_prompt(const struct generate_args *args, struct generate_result *result,
                                  struct sl_error *error)
{
    struct prefill prefill = {.progress = args->progress};
    uint64_t start_ns = quantity_now_ns();
    enum sl_status status = sl_session_sync(args->session, args->prompt, args->prompt_tokens,
                                            on_prefill, &prefill, error);
    result->prompt_ns = quantity_now_ns() - start_ns;
    progress_clear(args->progress);
    /* Not asked even once: all of the prompt was there, or it was refused. */
    if (prefill.called)
        result->prompt_computed = sl_session_length(args->session) - prefill.reused_tokens;
    return status;
}

static bool is_stop(const struct writer *writer, int32_t id)
{
    return id == writer->eos_id || (id == writer->user_id && id >= 0);
}

/* Draws and computes tokens until something ends it. */
static enum sl_status answer(const struct generate_args *args, struct writer *writer,
                             struct generate_result *result, struct sl_error *error)
{
    uint64_t start_ns = quantity_now_ns();
    enum sl_status status = SL_OK;
    result->finish = GENERATE_LENGTH;
    while (result->count < (size_t)args->tokens_max) {
        if (interrupt_requested()) {
            result->finish = GENERATE_INTERRUPTED;
            break;
        }
        int32_t id = sl_sampler_next(args->sampler, sl_session_logits(args->session));
        uint64_t now_ns = quantity_now_ns();
        if (!result->first_token_ns)
            result->first_token_ns = result->prompt_ns + (now_ns - start_ns);
        if (is_stop(writer, id)) {
            result->finish = GENERATE_STOP;
            break;
        }
        result->ids[result->count++] = id;
        bool last = result->count == (size_t)args->tokens_max;
        /* Reads travel while the text is written. */
        if (!last) sl_session_expect(args->session, &id, 1, 1);
        status = write_token(writer, id, error);
        /* The last token's own logits are of no use. */
        if (status != SL_OK || last) break;
        status = sl_session_append(args->session, &id, 1, NULL, error);
        if (status == SL_ERR_LIMIT) { /* the context is full, which ends an answer in order */
            status = SL_OK;
            break;
        }
        if (status != SL_OK) break;
        result->steps++;
    }
    result->decode_ns = quantity_now_ns() - start_ns;
    return status;
}

/* Counters become those since `before`; sizes stay. */
static void take_difference(const struct sl_stats *before, struct sl_stats *now)
{
    now->expert_hits -= before->expert_hits;
    now->expert_misses -= before->expert_misses;
    now->expert_evictions -= before->expert_evictions;
    now->expert_bytes_read -= before->expert_bytes_read;
    now->expert_reads -= before->expert_reads;
    now->expert_retries -= before->expert_retries;
    now->expert_failures -= before->expert_failures;
    now->stall_ns -= before->stall_ns;
    now->from_disk -= before->from_disk;
    now->from_ram -= before->from_ram;
    now->from_device -= before->from_device;
    now->on_cpu -= before->on_cpu;
    now->on_device -= before->on_device;
    now->bytes_up -= before->bytes_up;
    now->bytes_down -= before->bytes_down;
    now->promotions -= before->promotions;
    now->demotions -= before->demotions;
    now->redirects -= before->redirects;
    now->table_useful -= before->table_useful;
    now->table_late -= before->table_late;
    now->table_wasted -= before->table_wasted;
    now->router_useful -= before->router_useful;
    now->router_late -= before->router_late;
    now->router_wasted -= before->router_wasted;
    now->lookahead_layers -= before->lookahead_layers;
    now->lookahead_ns -= before->lookahead_ns;
}

enum sl_status generate(const struct generate_args *args, struct generate_result *result,
                        struct sl_error *error)
{
    *result = (struct generate_result){.prompt_tokens = args->prompt_tokens};
    if (args->prompt_tokens == 0)
        return sl_error_set(error, SL_ERR_ARGUMENT, 0, "the prompt is empty");
    result->ids = malloc(((size_t)args->tokens_max + 1) * sizeof *result->ids);
    if (!result->ids)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "no memory for %d tokens",
                            args->tokens_max);
    struct writer writer;
    writer_init(&writer, args, result);
    struct sl_stats before;
    sl_engine_stats(args->engine, &before);

    enum sl_status status = read_prompt(args, result, error);
    if (status == SL_ERR_CANCELLED) {
        status = SL_OK;
        result->finish = GENERATE_INTERRUPTED;
    } else if (status == SL_OK) {
        set_dim(&writer, args->thinking);
        status = answer(args, &writer, result, error);
        struct sl_error late;
        enum sl_status finished = writer_finish(&writer, status == SL_OK ? error : &late);
        if (status == SL_OK) status = finished;
    }
    sl_engine_stats(args->engine, &result->stats);
    take_difference(&before, &result->stats);
    return status;
}

void generate_result_deinit(struct generate_result *result)
{
    free(result->ids);
    grow_text_deinit(&result->text);
    *result = (struct generate_result){0};
}

const char *generate_finish_name(enum generate_finish finish)
{
    static const char *const names[] = {"stop", "length", "interrupted"};
    return names[finish];
}
