/* The published outputs, end to end; see the header. */
#include "tests/support_golden_check.h"

#include "tests/support.h"
#include "tests/support_golden.h"

#include <math.h>
#include <string.h>

#define SEQUENCES_MAX 8

struct run {
    float *prefill, *decode, *mtp; /* [tokens, vocab]; decode NULL: not run */
};

static struct run run_sequence(sl_engine *engine, const struct golden_sequence *sequence,
                               bool prompts_only)
{
    size_t vocab = (size_t)sl_engine_info(engine).vocab;
    size_t floats = vocab * (size_t)sequence->count;
    struct run run = {.prefill = calloc(floats, sizeof(float)),
                      .mtp = calloc(floats, sizeof(float))};
    struct sl_error error;
    sl_session *session;
    if (!prompts_only) run.decode = calloc(floats, sizeof(float));
    assert_true(run.prefill && run.mtp && (run.decode || prompts_only));
    assert_int_equal(sl_session_create(engine, &session, &error), SL_OK);
    if (sl_session_append_mtp(session, sequence->ids, (size_t)sequence->count, run.prefill, run.mtp,
                              &error) != SL_OK)
        fail_msg("%s", error.message);
    sl_session_reset(session);
    for (int32_t t = 0; run.decode && t < sequence->count; t++)
        if (sl_session_append(session, sequence->ids + t, 1, run.decode + (size_t)t * vocab,
                              &error) != SL_OK)
            fail_msg("%s", error.message);
    sl_session_destroy(session);
    return run;
}

static void free_run(struct run *run)
{
    free(run->prefill);
    free(run->decode);
    free(run->mtp);
}

/* Golden logits with the positions of their rows. */
struct golden_logits {
    struct golden_tensor logits, rows;
};

static bool read_logits(const char *directory, const char *sequence, const char *variant,
                        const char *name, struct golden_logits *out)
{
    const char *rows = strcmp(name, "logits_mtp") == 0 ? "rows_mtp" : "rows";
    out->rows = (struct golden_tensor){0};
    if (!golden_read(directory, sequence, variant, name, &out->logits)) return false;
    golden_read(directory, sequence, variant, rows, &out->rows);
    if (out->rows.data) assert_int_equal(out->rows.rows, out->logits.rows);
    return true;
}

static int32_t row_position(const struct golden_logits *golden, int64_t row)
{
    return golden->rows.data ? (int32_t)golden->rows.data[row] : (int32_t)row;
}

/* Largest difference; argmax must agree wherever the golden gap exceeds 2e-3. */
static double compare_f32(const struct golden_logits *golden, const float *ours)
{
    double worst = 0;
    int64_t vocab = golden->logits.width;
    for (int64_t row = 0; row < golden->logits.rows; row++) {
        const float *expected = golden->logits.data + row * vocab;
        const float *actual = ours + (int64_t)row_position(golden, row) * vocab;
        for (int64_t i = 0; i < vocab; i++)
            worst = fmax(worst, fabs((double)expected[i] - (double)actual[i]));
        if (golden_lead(expected, vocab) > 2e-3f)
            assert_int_equal(golden_argmax(expected, vocab), golden_argmax(actual, vocab));
    }
    return worst;
}

void golden_check_f32(const struct golden_check *check, const char *model)
{
    static const char *const names[] = {"logits_prefill", "logits_decode", "logits_mtp"};
    struct golden_sequence sequences[SEQUENCES_MAX];
    char *directory = golden_directory(model);
    int32_t count = golden_sequences(directory, sequences, SEQUENCES_MAX);
    sl_engine *engine = check->open(check->context, directory, SL_NUMERICS_F32);
    int compared = 0, sequences_run = 0;
    for (int32_t s = 0; s < count; s++) {
        if (sequences[s].count > check->tokens_max) {
            free(sequences[s].ids);
            continue;
        }
        sequences_run++;
        struct run run = run_sequence(engine, &sequences[s], check->prompts_only);
        const float *ours[] = {run.prefill, run.decode, run.mtp};
        for (size_t n = 0; n < SL_COUNT_OF(names); n++) {
            struct golden_logits golden;
            if (!ours[n]) continue;
            /* Decoding longer sequences gives the prefill logits; then it is compared with those.
             */
            bool found = read_logits(directory, sequences[s].name, "f32", names[n], &golden);
            if (!found && n == 1)
                found = read_logits(directory, sequences[s].name, "f32", names[0], &golden);
            if (!found) continue;
            double worst = compare_f32(&golden, ours[n]);
            printf("%s %s f32 %s: max difference %.2e (limit 1e-3), %d rows\n", model,
                   sequences[s].name, names[n], worst, (int)golden.logits.rows);
            assert_true(worst <= 1e-3);
            compared++;
            free(golden.logits.data);
            free(golden.rows.data);
        }
        free_run(&run);
        free(sequences[s].ids);
    }
    assert_true(sequences_run >= check->sequences_min);
    assert_true(compared >= (check->prompts_only ? 1 : 2) * sequences_run);
    sl_engine_close(engine);
    free(directory);
}

/* Pooled per-position statistics of one checkpoint. */
struct pool {
    double *rms;
    size_t count, room;
    double kl_sum;
    size_t clear, clear_equal; /* positions whose golden gap is >= 1, and equal argmax there */
};

static double kl_divergence(const float *p, const float *q, int64_t count)
{
    double p_max = -INFINITY, q_max = -INFINITY, p_sum = 0, q_sum = 0, kl = 0;
    for (int64_t i = 0; i < count; i++) {
        p_max = fmax(p_max, (double)p[i]);
        q_max = fmax(q_max, (double)q[i]);
    }
    for (int64_t i = 0; i < count; i++) {
        p_sum += exp((double)p[i] - p_max);
        q_sum += exp((double)q[i] - q_max);
    }
    for (int64_t i = 0; i < count; i++) {
        double log_p = (double)p[i] - p_max - log(p_sum);
        double log_q = (double)q[i] - q_max - log(q_sum);
        kl += exp(log_p) * (log_p - log_q);
    }
    return kl;
}

static void pool_rows(struct pool *pool, const struct golden_logits *golden, const float *ours)
{
    int64_t vocab = golden->logits.width;
    for (int64_t row = 0; row < golden->logits.rows; row++) {
        const float *expected = golden->logits.data + row * vocab;
        const float *actual = ours + (int64_t)row_position(golden, row) * vocab;
        double sum = 0;
        for (int64_t i = 0; i < vocab; i++)
            sum += ((double)expected[i] - actual[i]) * ((double)expected[i] - actual[i]);
        assert_true(pool->count < pool->room);
        pool->rms[pool->count++] = sqrt(sum / (double)vocab);
        pool->kl_sum += kl_divergence(expected, actual, vocab);
        if (golden_lead(expected, vocab) >= 1.0f) {
            pool->clear++;
            pool->clear_equal += golden_argmax(expected, vocab) == golden_argmax(actual, vocab);
        }
    }
}

static int compare_doubles(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static void judge_pool(struct pool *pool, const char *model, const char *variant, size_t rows_min)
{
    assert_true(pool->count >= rows_min && pool->clear > 3);
    qsort(pool->rms, pool->count, sizeof *pool->rms, compare_doubles);
    double median = pool->rms[pool->count / 2];
    double high = pool->rms[pool->count * 95 / 100];
    double kl = pool->kl_sum / (double)pool->count;
    double equal = (double)pool->clear_equal / (double)pool->clear;
    printf("%s exact against golden %s: rms median %.3f (0.35), 95%% %.3f (0.6), mean KL %.4f "
           "(0.04), top-1 where clear %.1f%% (97%%), %zu rows\n",
           model, variant, median, high, kl, 100 * equal, pool->count);
    assert_true(median <= 0.35);
    assert_true(high <= 0.6);
    assert_true(kl <= 0.04);
    assert_true(equal >= 0.97);
}

void golden_check_exact(const struct golden_check *check, const char *model)
{
    static const char *const names[] = {"logits_prefill", "logits_decode", "logits_mtp"};
    static const char *const variants[] = {"exact", "f32"};
    struct golden_sequence sequences[SEQUENCES_MAX];
    char *directory = golden_directory(model);
    int32_t count = golden_sequences(directory, sequences, SEQUENCES_MAX);
    sl_engine *engine = check->open(check->context, directory, SL_NUMERICS_EXACT);
    struct pool pools[2] = {{.room = 8192}, {.room = 8192}};
    for (int v = 0; v < 2; v++) {
        pools[v].rms = calloc(pools[v].room, sizeof(double));
        assert_non_null(pools[v].rms);
    }
    for (int32_t s = 0; s < count; s++) {
        if (sequences[s].count > check->tokens_max) {
            free(sequences[s].ids);
            continue;
        }
        struct run run = run_sequence(engine, &sequences[s], check->prompts_only);
        const float *ours[] = {run.prefill, run.decode, run.mtp};
        for (size_t n = 0; n < SL_COUNT_OF(names); n++) {
            for (int v = 0; v < 2; v++) {
                struct golden_logits golden;
                if (!ours[n] ||
                    !read_logits(directory, sequences[s].name, variants[v], names[n], &golden))
                    continue;
                pool_rows(&pools[v], &golden, ours[n]);
                free(golden.logits.data);
                free(golden.rows.data);
            }
        }
        free_run(&run);
        free(sequences[s].ids);
    }
    for (int v = 0; v < 2; v++) {
        judge_pool(&pools[v], model, variants[v], check->rows_min);
        free(pools[v].rms);
    }
    sl_engine_close(engine);
    free(directory);
}
