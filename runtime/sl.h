/* Sluice: runs DeepSeek-V4-Flash checkpoints whose experts do not fit in memory.
 *
 * An engine is a loaded model; a session is one timeline of tokens in it. One thread uses an engine
 * and all of its sessions at a time. Handles are freed by the call named beside them; strings and
 * arrays handed out are the caller's to free() only where it says so. Functions that can fail
 * return enum sl_status and, where they take one, fill a struct sl_error with a sentence. */
#ifndef SLUICE_SL_H
#define SLUICE_SL_H

#include "kernels/status.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Major.minor.patch of the library. */
SL_API const char *sl_version(void);

/* ---- tokenizer ---------------------------------------------------------------------------- */

typedef struct sl_tokenizer sl_tokenizer;

/* Reads a tokenizer.json file. Close with sl_tokenizer_close. */
SL_API SL_MUST_USE enum sl_status sl_tokenizer_open(const char *path, sl_tokenizer **out,
                                                    struct sl_error *error);
SL_API void sl_tokenizer_close(sl_tokenizer *tokenizer);

/* Ids of `text` (`bytes` long; invalid UTF-8 counts as U+FFFD). Added tokens are recognised and
 * nothing is prepended. `*ids` is the caller's to free; [*count]. Threads may use one tokenizer at
 * once. */
SL_API SL_MUST_USE enum sl_status sl_tokenizer_encode(const sl_tokenizer *tokenizer,
                                                      const char *text, size_t bytes, int32_t **ids,
                                                      size_t *count, struct sl_error *error);

/* Raw bytes of one id, borrowed from the tokenizer; NULL and 0 for an id that is none. */
SL_API const char *sl_tokenizer_bytes(const sl_tokenizer *tokenizer, int32_t id, size_t *bytes);

/* Id of an added token by its text, or -1. */
SL_API int32_t sl_tokenizer_added_id(const sl_tokenizer *tokenizer, const char *text);
SL_API int32_t sl_tokenizer_vocab(const sl_tokenizer *tokenizer); /* highest id + 1 */

/* Streams tokens to text that is cut only between whole characters. Zero-initialise. */
struct sl_text_stream {
    unsigned char held[8]; /* an incomplete character */
    int32_t held_bytes;
};

/* Appends `bytes` raw bytes and writes to `out` all characters that are complete now; invalid bytes
 * become U+FFFD. `out` must hold 3 * (bytes + 8). Returns the bytes written. bytes == 0 ends the
 * text: a character that is still incomplete becomes U+FFFD, so do not push empty tokens. */
SL_API size_t sl_text_stream_push(struct sl_text_stream *stream, const char *data, size_t bytes,
                                  char *out);

/* ---- chat prompts ------------------------------------------------------------------------- */

/* The prompt for a conversation. `input` is a JSON object with messages, thinking_mode ("chat" or
 * "thinking"), and optionally drop_thinking, add_bos, reasoning_effort, effort_profile ("preview"
 * or "0731"); docs/chat.md describes it. `*prompt` (zero-terminated, `*bytes` long) is the caller's
 * to free. */
SL_API SL_MUST_USE enum sl_status sl_chat_render(const char *input, size_t input_bytes,
                                                 char **prompt, size_t *bytes,
                                                 struct sl_error *error);

/* The message in a completion: `input` is a JSON object with text and thinking_mode; `*message` is
 * the message as JSON text, the caller's to free. Strict: any deviation is an error. */
SL_API SL_MUST_USE enum sl_status sl_chat_parse(const char *input, size_t input_bytes,
                                                char **message, size_t *bytes,
                                                struct sl_error *error);

/* ---- engine ------------------------------------------------------------------------------- */

typedef struct sl_engine sl_engine;
typedef struct sl_session sl_session;

enum sl_numerics {
    SL_NUMERICS_EXACT, /* rounds as the published program does */
    SL_NUMERICS_F32,   /* same weights, plain f32 everywhere: for debugging */
};

enum sl_io { SL_IO_AUTO, SL_IO_URING, SL_IO_PREAD };

/* Whether an expert in device memory keeps its place in RAM. AUTO: where RAM holds them all. */
enum sl_tiers { SL_TIERS_AUTO, SL_TIERS_EXCLUSIVE, SL_TIERS_INCLUSIVE };
/* What is read before a layer asks for it. Never changes what is computed. */
enum sl_prefetch {
    SL_PREFETCH_AUTO, /* what the token id tells and what routers applied early say, if it pays */
    SL_PREFETCH_OFF,
    SL_PREFETCH_HASH, /* only what the token id tells */
};

/* Who computes everything but the experts that stay in RAM. AUTO: a GPU if one is found. */
enum sl_device { SL_DEVICE_CPU, SL_DEVICE_GPU, SL_DEVICE_AUTO };

/* Lines of text for the user, `text` ending in a newline. */
typedef void (*sl_say_fn)(void *context, const char *text);

/* Progress of opening: `what` names the step; return false to cancel. */
typedef bool (*sl_progress_fn)(void *context, const char *what, uint64_t done, uint64_t total);

struct sl_engine_options {
    const char *model_dir;
    /* Packed experts; or, on several disks, all parts of them or copies, "FILE,FILE"; NULL:
     * DIR/experts.sluice if there; "": unpacked. */
    const char *experts_file;
    uint64_t ram_bytes;     /* for routed experts; 0: what the machine can spare */
    int32_t threads;        /* 0: one per physical core this process may use */
    const char *cpu_isa;    /* "portable", "avx2", "avx512" or "amx"; NULL: the best there is */
    int32_t context_tokens; /* most tokens of a session; 0: 4096 or the model's, if smaller */
    int32_t chunk_tokens;   /* most prompt tokens computed at once; 0: 256 */
    enum sl_numerics numerics;
    enum sl_io io;
    enum sl_tiers tiers;
    /* A simulated device with that much memory for experts, behind a link of that many bytes per
     * second in each direction (0: 25 GB/s); 0: none. The CPU computes what lies there, so results
     * are the same; for tests and demonstrations. */
    uint64_t sim_device_bytes, sim_link_bytes_per_second;
    enum sl_prefetch prefetch;
    int32_t prefetch_depth; /* layers that routers look ahead, 1 or 2; 0: the usual */
    /* Which experts stay: "blend", "lru", "lfu" or "static", which never learns; NULL: "blend". */
    const char *policy;
    const char *pinned_layers; /* whose experts give way last, such as "0-2,42"; NULL: none */
    /* File of how experts were used in earlier runs, to start warm from if it is there; written by
     * sl_engine_save_heat. NULL: none. */
    const char *heat_profile;
    /* What `sluice bench host` found out about this machine, by which experts are streamed,
     * computed or read. NULL: the usual file, if it is there and of this machine; "": none. */
    const char *machine_profile;
    enum sl_device device;
    uint64_t gpu_bytes; /* most of the GPU's memory that is taken; 0: what is free */
    /* Hears, before anything large is taken, where the GPU's memory will go; may be NULL. */
    sl_say_fn say;
    void *say_context;
    bool fast_prefill;       /* OpenBLAS where faster; depends on chunk_tokens */
    bool buffered_io;        /* do not try O_DIRECT */
    bool with_mtp;           /* load the MTP block */
    sl_progress_fn progress; /* may be NULL */
    void *progress_context;
};

SL_API struct sl_engine_options sl_engine_options_default(void);
SL_API SL_MUST_USE enum sl_status sl_engine_open(const struct sl_engine_options *options,
                                                 sl_engine **out, struct sl_error *error);
SL_API void sl_engine_close(sl_engine *engine); /* after all of its sessions */

/* Writes how experts were used, the earlier runs it started from included, into the options'
 * heat_profile, as a whole or not at all. SL_OK and nothing done without one, or where the file
 * that was there at the start could not be used (a notice says so) and so may be something else. */
SL_API SL_MUST_USE enum sl_status sl_engine_save_heat(const sl_engine *engine,
                                                      struct sl_error *error);

struct sl_model_info {
    int32_t vocab, hidden, layers, experts, experts_per_token;
    int32_t context_max;    /* the model's */
    int32_t context_tokens; /* of this engine's sessions */
    int32_t bos_id, eos_id;
    bool has_mtp;      /* loaded */
    bool drafter_0731; /* the later checkpoint: its effort profile applies */
};

SL_API struct sl_model_info sl_engine_info(const sl_engine *engine);
/* NULL when the directory has no tokenizer.json. Borrowed. */
SL_API const sl_tokenizer *sl_engine_tokenizer(const sl_engine *engine);

struct sl_stats {
    uint64_t expert_hits, expert_misses, expert_evictions;
    uint64_t expert_bytes_read, expert_reads, expert_retries, expert_failures;
    uint64_t stall_ns;                        /* waiting for experts */
    uint64_t expert_ram_bytes;                /* slots and staging */
    int32_t expert_slots, expert_slots_total; /* in RAM; experts in the model */
    uint64_t dense_bytes, session_bytes;      /* mapped weights; of one session */
    char io[160];                             /* how experts are read */
    char memory[384];                         /* what they are kept in */
    /* With a device: its slots; experts asked for by where they were, and by who computed them. */
    int32_t device_slots;
    uint64_t from_disk, from_ram, from_device, on_cpu, on_device;
    uint64_t bytes_up, bytes_down;  /* copied to the device, and from it */
    uint64_t promotions, demotions; /* unasked copies up; victims that went back to RAM */
    uint64_t redirects;             /* experts whose copy was given up: the CPU took them */
    /* Guesses that moved bytes: there when asked for, still on the way, not asked for in time. */
    uint64_t table_useful, table_late, table_wasted;    /* from the token id */
    uint64_t router_useful, router_late, router_wasted; /* by routers applied early */
    uint64_t lookahead_layers,
        lookahead_ns;                /* layers at which routers looked ahead; time it took */
    char gpu[192];                   /* the GPU in use, or why AUTO found none; else "" */
    bool on_gpu;                     /* there is one in use */
    char cpu_isa[16];                /* the kernels' instruction set */
    int32_t threads, threads_pinned; /* that compute; workers of them kept on a core of their own */
};

SL_API void sl_engine_stats(const sl_engine *engine, struct sl_stats *out);

/* Sentences on degraded service so far, such as a link that failed or memory that could not be had,
 * by index from 0; NULL behind the last. Engine-owned, valid until the next call. */
SL_API const char *sl_engine_notice(const sl_engine *engine, int32_t idx);
/* The same of one layer, since the engine was opened. */
struct sl_layer_stats {
    uint64_t asked, missed; /* experts, once for each pass over the layer; not in memory then */
    uint64_t wait_ns;
    uint64_t useful, late, wasted; /* guesses */
    bool from_table;               /* its experts follow from the token id */
};

SL_API void sl_engine_layer_stats(const sl_engine *engine, int32_t layer,
                                  struct sl_layer_stats *out);

/* Records every pass from now on into `path`: tokens, experts, guesses, times (docs/trace.md).
 * `every_guess` also looks ahead in ways that are not used, for comparison, which takes time.
 * SL_ERR_BUSY when a recording is under way already. */
SL_API SL_MUST_USE enum sl_status sl_trace_start(sl_engine *engine, const char *path,
                                                 bool every_guess, struct sl_error *error);
/* Ends it; closing the engine does so, too, but tells nobody whether it went well. SL_OK without a
 * recording. */
SL_API SL_MUST_USE enum sl_status sl_trace_stop(sl_engine *engine, struct sl_error *error);

/* Statistics of a recorded trace beside the published ones, as text or as JSON. `*report` is the
 * caller's to free. */
SL_API SL_MUST_USE enum sl_status sl_trace_report(const char *path, bool json, char **report,
                                                  struct sl_error *error);

/* ---- session ------------------------------------------------------------------------------ */

SL_API SL_MUST_USE enum sl_status sl_session_create(sl_engine *engine, sl_session **out,
                                                    struct sl_error *error);
SL_API void sl_session_destroy(sl_session *session);

/* Called before each chunk of a prompt and after each of its layers, which count as so many of its
 * tokens; return false to cancel within a layer: the chunks done so far stay. */
typedef bool (*sl_prefill_fn)(void *context, size_t done, size_t total);

/* Makes the timeline equal `tokens`: keeps the longest usable prefix, computes the rest. On an
 * error the session stays usable and holds a prefix of what was asked. */
SL_API SL_MUST_USE enum sl_status sl_session_sync(sl_session *session, const int32_t *tokens,
                                                  size_t count, sl_prefill_fn progress,
                                                  void *context, struct sl_error *error);

/* Appends tokens. `logits` may be NULL or [count, vocab], all rows then being computed. */
SL_API SL_MUST_USE enum sl_status sl_session_append(sl_session *session, const int32_t *tokens,
                                                    size_t count, float *logits,
                                                    struct sl_error *error);

/* The same through the MTP block as well: mtp_logits is [count - 1, vocab], row i from the streams
 * of token i and the embedding of token i + 1. Only on an empty session of an engine with_mtp. */
SL_API SL_MUST_USE enum sl_status sl_session_append_mtp(sl_session *session, const int32_t *tokens,
                                                        size_t count, float *logits,
                                                        float *mtp_logits, struct sl_error *error);

/* Logits after the last token, [vocab], valid until the next call on this session; NULL when the
 * timeline is empty. */
SL_API const float *sl_session_logits(const sl_session *session);
SL_API size_t sl_session_length(const sl_session *session);
SL_API void sl_session_reset(sl_session *session); /* back to an empty timeline */

/* Sees every layer's routing: experts and weights [tokens, top], ids ascending within a token. */
typedef void (*sl_route_fn)(void *context, int32_t layer, int32_t first_position, int32_t tokens,
                            int32_t top, const int32_t *experts, const float *weights);
SL_API void sl_session_on_route(sl_session *session, sl_route_fn fn, void *context);

/* What became of one expert of a layer in one pass; times from the moment it was asked for. */
struct sl_dispatch {
    int32_t layer, expert, tokens;    /* that chose it in this pass */
    const char *from;                 /* "disk", "ram" or "device": where it was */
    const char *lane;                 /* "cpu" or "device": who computed it */
    uint64_t predicted_ns;            /* when it was expected to be ready */
    uint64_t ready_ns;                /* and was; 0: at once */
    uint64_t started_ns, finished_ns; /* computing it, with others that were ready */
};

typedef void (*sl_dispatch_fn)(void *context, const struct sl_dispatch *dispatch);
SL_API void sl_session_on_dispatch(sl_session *session, sl_dispatch_fn fn, void *context);

/* Says that these tokens will be appended next, with this probability: a sampled token as soon as
 * it is known (1), a draft, a prompt. What a table tells about them is read at once. No promise:
 * other tokens may follow. Ids outside the vocabulary are passed over. */
SL_API void sl_session_expect(sl_session *session, const int32_t *tokens, size_t count,
                              float probability);

/* ---- sampling ----------------------------------------------------------------------------- */

struct sl_sampling {
    float temperature; /* 0: the most likely token */
    float top_p;       /* 1: off */
    float min_p;       /* 0: off */
    int32_t top_k;     /* 0: off */
};

typedef struct sl_sampler sl_sampler;

/* A sampler for `vocab` tokens; the same seed gives the same draws. */
SL_API SL_MUST_USE enum sl_status sl_sampler_create(const struct sl_sampling *sampling,
                                                    int32_t vocab, uint64_t seed, sl_sampler **out,
                                                    struct sl_error *error);
SL_API void sl_sampler_destroy(sl_sampler *sampler);
SL_API int32_t sl_sampler_next(sl_sampler *sampler, const float *logits);

/* ---- this machine ------------------------------------------------------------------------- */

struct sl_host_options {
    const char *model_dir; /* its experts' shape and files; NULL: the shape of V4-Flash, no disk */
    const char *file;      /* read instead of the model's experts; NULL: these */
    const char *profile; /* where to keep the figures; NULL: ~/.cache/sluice/machine; "": nowhere */
    double seconds;      /* of each of about twenty measurements, forty with a device; 0: 0.5 */
    int32_t threads;     /* 0: one per physical core */
    /* As in sl_engine_options. A device's link is measured as well; without one, runs that have one
     * go by assumed rates. */
    const char *cpu_isa, *experts_file;
    enum sl_io io;
    enum sl_device device;
    uint64_t sim_device_bytes, sim_link_bytes_per_second;
    bool buffered_io;
};

/* Measures memory, experts on the CPU, the disk and the link, alone and together, keeps the figures
 * as this machine's profile, and describes them as text or JSON. `*report` is the caller's to free.
 */
SL_API SL_MUST_USE enum sl_status sl_bench_host(const struct sl_host_options *options, bool json,
                                                char **report, struct sl_error *error);

/* ---- checkpoints on disk ------------------------------------------------------------------ */

/* What a checkpoint is and where its bytes would live under these options, as text for people or
 * as JSON; opens no engine. `*report` is the caller's to free. */
SL_API SL_MUST_USE enum sl_status sl_inspect(const struct sl_engine_options *options, bool json,
                                             char **report, struct sl_error *error);

/* Writes the experts of a checkpoint as one aligned, checksummed file, or, when `output` is a list
 * "FILE,FILE", in as many equal parts. `output` NULL: into DIR/experts.sluice. Writes beside each
 * file first and renames at the end; a run that was cut off goes on where it stopped. */
SL_API SL_MUST_USE enum sl_status sl_pack(const char *model_dir, const char *output,
                                          sl_progress_fn progress, void *context,
                                          struct sl_error *error);

/* Reads a packed file, one part or a list "FILE,FILE" of copies or of all parts, and compares every
 * checksum, and the origin with `model_dir` unless that is NULL. */
SL_API SL_MUST_USE enum sl_status sl_verify(const char *packed_files, const char *model_dir,
                                            sl_progress_fn progress, void *context,
                                            struct sl_error *error);

/* Writes a random checkpoint in the published format: preset "tiny", "small" or "flash"; layers 0
 * keeps the preset's count. The same seed writes the same bytes. */
SL_API SL_MUST_USE enum sl_status sl_synth(const char *preset, const char *directory,
                                           int32_t layers, uint64_t seed, sl_progress_fn progress,
                                           void *context, struct sl_error *error);

/* ---- before a machine is bought ------------------------------------------------------------ */

/* A machine in figures; bytes, and bytes/s of experts. Rates of 0: there is no such lane. */
struct sl_machine {
    uint64_t gpu_bytes; /* 0: no GPU */
    uint64_t ram_bytes;
    double gpu_rate;  /* device memory as expert kernels read it */
    double link_rate; /* host memory to GPU */
    double cpu_rate;  /* experts computed by the CPU from RAM */
    double disk_rate;
    double memory_rate; /* link and CPU together; 0: their sum */
};

struct sl_simulation {
    const char *trace;         /* a recorded trace; NULL: synthetic routing */
    const char *preset;        /* "base", "long-topics" or "stress"; without a trace */
    const char *policy;        /* "blend", "lru", "lfu", "static" or "clairvoyant" */
    struct sl_machine machine; /* gpu_bytes and ram_bytes: for experts alone */
    int32_t layers, experts, top, hash_layers; /* without a trace */
    uint64_t expert_bytes;                     /* 0: as the trace says */
    double dense_seconds;                      /* of a token, outside its experts */
    /* Routers applied one layer early, and two: the share they find of what is missing (0: no
     * guesses), and of the missing experts they name, the share that is right. */
    double recall[2], precision[2];
    bool hash_exact; /* prefetch of hash layers from the token id */
    bool inclusive;  /* what the GPU holds stays in RAM as well */
    uint64_t warm_tokens, tokens;
    uint64_t seed;
};

/* The published shape of V4-Flash on an H100 with 128 GiB RAM. */
SL_API struct sl_simulation sl_simulation_default(void);

/* Plays a trace through residency, prefetch and dispatch under a virtual clock; hit rates, bytes
 * and speeds as text or JSON. `*report` is the caller's to free. */
SL_API SL_MUST_USE enum sl_status sl_simulate(const struct sl_simulation *simulation, bool json,
                                              char **report, struct sl_error *error);

struct sl_plan_options {
    const char *model_dir;     /* of config.json, no weights needed; NULL: by `shape` */
    const char *shape;         /* "flash" or "pro" */
    struct sl_machine machine; /* a rate below 0 is not given: measured, or else assumed */
    uint64_t dense_bytes;      /* weights that every token reads; 0: those of V4-Flash */
    /* The plan is for the machine this runs on: rates not given are those that sl_bench_host kept
     * in the file named (NULL: the usual one, "": none), if it measured this machine. */
    bool this_machine;
    const char *machine_profile;
};

/* V4-Flash on an H100 with 128 GiB RAM and one disk of 7 GB/s. */
SL_API struct sl_plan_options sl_plan_options_default(void);
/* Takes the RAM of the machine this runs on, no GPU, and no rate as given. */
SL_API void sl_machine_this(struct sl_machine *machine);

/* Whether the model would fit, where its bytes would live, and how fast it would run, each figure
 * with what it assumes, as text or JSON. SL_ERR_UNSUPPORTED for a shape whose sizes are not
 * published, or a profile named that is of another machine or stale; SL_ERR_FORMAT and
 * SL_ERR_CHECKSUM: it is damaged. `*report` is the caller's to free. */
SL_API SL_MUST_USE enum sl_status sl_plan(const struct sl_plan_options *options, bool json,
                                          char **report, struct sl_error *error);

#ifdef __cplusplus
}
#endif
#endif
