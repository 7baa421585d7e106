/* A trace: which experts every layer chose for every token, what was guessed beforehand, and how
 * long it took. Written by a run, or by a generator of synthetic routing; replayed by the simulator
 * and counted by `sluice trace`.
 *
 * The file, little-endian throughout, version 1:
 *
 *     head, TRACE_HEAD_BYTES     magic "SLUICETR", version, shape, lists; XXH3-64 of the rest last
 *     blocks                     32 bytes: u32 magic "SLTB", u32 payload bytes, u32 steps,
 *                                u32 zero, u64 number of its first step, u64 XXH3-64 of the 24
 *                                bytes before and the payload; then the payload, whole steps
 *     end                        such a header with magic "SLTE", no payload, and the number of
 *                                steps of the whole file as first step
 *
 * A step is one pass over consecutive tokens of one session:
 *
 *     u32 bytes of the step, this field included; u8 kind; u8 flags (1 guesses, 2 timings);
 *     u16 layers; i32 position of the first token; i32 tokens; u64 start ns; u64 duration ns
 *     i32 ids       [tokens]
 *     u8  chosen    [layers, tokens, top]; u16 where the model has more than 256 experts
 *     (u16, i16) guesses [layers, lists, tokens, guesses]: expert (65535: none) and margin / 4096;
 *                   with flag 1. Those at layer l were made there, about layer l + distance
 *     u32 x 4 timings [layers]: struct trace_timing; with flag 2
 *
 * Nothing is padded. A file without its end is what a killed run leaves: its whole blocks can be
 * read, then the reader says where it stops. docs/trace.md shows how to read one from Python.
 *
 * A writer and a reader belong to one thread each and own their buffers; both are made at open, so
 * that recording allocates nothing. A failed write is remembered, ends the recording and comes out
 * of close: a full disk does not stop a run. */
#ifndef SLUICE_OFFLOAD_TRACE_H
#define SLUICE_OFFLOAD_TRACE_H

#include "kernels/base.h"
#include "offload/predictor.h"

#define TRACE_VERSION          1
#define TRACE_HEAD_BYTES       256
#define TRACE_BLOCK_HEAD_BYTES 32
#define TRACE_LAYERS_MAX       256
#define TRACE_EXPERTS_MAX      4096
#define TRACE_TOP_MAX          64
#define TRACE_LISTS_MAX        6
#define TRACE_GUESSES_MAX      PREDICTOR_CANDIDATES_MAX
#define TRACE_STEP_TOKENS_MAX  16384        /* of one step */
#define TRACE_GUESS_TOKENS_MAX 16           /* steps of more tokens carry no guesses */
#define TRACE_BLOCK_BYTES      (256u << 10) /* a block is written when it has grown to this */
#define TRACE_STEP_BYTES_MAX   (128u << 20) /* of one step, and so of one block */
#define TRACE_SOURCE_BYTES     96

enum trace_step_kind { TRACE_PREFILL, TRACE_DECODE, TRACE_VERIFY };

/* Which state and which layer a list of guesses came from. */
struct trace_list {
    uint8_t distance; /* layers ahead: 1 or 2 */
    uint8_t variant;  /* of the state it was made from, enum predictor_state */
};

struct trace_head {
    int32_t layers; /* main layers, and the MTP block where it was loaded */
    int32_t hash_layers;
    int32_t experts, top; /* of a layer; chosen for a token */
    int32_t list_count;   /* lists of guesses at each layer, 0 .. TRACE_LISTS_MAX */
    int32_t guesses;      /* entries of a list */
    struct trace_list lists[TRACE_LISTS_MAX];
    uint64_t slot_bytes;             /* of one expert; 0: not known */
    uint64_t fingerprint;            /* of the model; 0: synthetic */
    char source[TRACE_SOURCE_BYTES]; /* who wrote it, in words; zero-terminated */
};

/* Of one layer of a step; times saturate at 4.2 s. */
struct trace_timing {
    uint32_t before_ns;  /* from the layer's start until its experts are chosen */
    uint32_t experts_ns; /* from then until their sum is there */
    uint32_t wait_ns;    /* of that, waiting for experts */
    uint32_t missed;     /* experts that were not in memory */
};

/* Arrays are the caller's when written and the reader's when read, until its next call. */
struct trace_step {
    enum trace_step_kind kind;
    int32_t position, tokens; /* of the first token in its session; 1 .. TRACE_STEP_TOKENS_MAX */
    int32_t layers;           /* visited: 0 .. layers - 1 */
    uint64_t start_ns;        /* since the recording began */
    uint64_t duration_ns;
    const int32_t *ids;                        /* [tokens] */
    const uint16_t *chosen;                    /* [layers, tokens, top] */
    const struct predictor_candidate *guesses; /* [layers, lists, tokens, guesses], or NULL;
                                                  expert -1: no guess, and none after it */
    const struct trace_timing *timings;        /* [layers], or NULL */
};

/* ---- writing ------------------------------------------------------------------------------ */

struct trace_writer;

/* Creates `path`, which must not be a directory, for steps of up to `tokens_max` tokens; an
 * existing file is replaced. SL_ERR_ARGUMENT: a head out of bounds, or a path that cannot be
 * created; SL_ERR_NO_MEMORY. */
SL_MUST_USE enum sl_status trace_writer_open(const char *path, const struct trace_head *head,
                                             int32_t tokens_max, struct trace_writer **out,
                                             struct sl_error *error);

/* A step in pieces, as a forward pass makes them: begin, then layers in ascending order, each with
 * its choice first and then, in any order, lists and timing; end or abandon. `now_ns` is any clock
 * that does not run backwards; the first begin is its zero. ids [tokens] are copied. */
void trace_writer_begin(struct trace_writer *writer, enum trace_step_kind kind, int32_t position,
                        const int32_t *ids, int32_t tokens, uint64_t now_ns);
/* chosen [tokens, top] of layer `layer`, which is one more than the last one's, from 0. */
void trace_writer_layer(struct trace_writer *writer, int32_t layer, const int32_t *chosen);
/* Candidates [count] for token `token` of the step, best first; more than the head's `guesses` are
 * cut, and steps of more than TRACE_GUESS_TOKENS_MAX tokens record none. */
void trace_writer_list(struct trace_writer *writer, int32_t list, int32_t token,
                       const struct predictor_candidate *candidates, int32_t count);
void trace_writer_timing(struct trace_writer *writer, const struct trace_timing *timing);
void trace_writer_end(struct trace_writer *writer, uint64_t now_ns);
void trace_writer_abandon(struct trace_writer *writer); /* forgets the step; fine without one */

/* A whole step at once; its start and duration are taken as given. */
void trace_writer_step(struct trace_writer *writer, const struct trace_step *step);

/* Writes what is left and the end, and frees the writer; the status of the whole recording. NULL is
 * fine. */
SL_MUST_USE enum sl_status trace_writer_close(struct trace_writer *writer, struct sl_error *error);

uint64_t trace_writer_bytes(const struct trace_writer *writer); /* of the file so far */

/* ---- reading ------------------------------------------------------------------------------ */

struct trace_reader;

/* SL_ERR_IO: cannot be read; SL_ERR_FORMAT, SL_ERR_CHECKSUM: not a trace, or a damaged one, with
 * its name and the offset; SL_ERR_UNSUPPORTED: another version; SL_ERR_NO_MEMORY. */
SL_MUST_USE enum sl_status trace_reader_open(const char *path, struct trace_reader **out,
                                             struct sl_error *error);
/* The same over bytes in memory, which the reader borrows; `name` for messages. */
SL_MUST_USE enum sl_status trace_reader_open_memory(const void *data, size_t bytes,
                                                    const char *name, struct trace_reader **out,
                                                    struct sl_error *error);
void trace_reader_close(struct trace_reader *reader); /* NULL is fine */

const struct trace_head *trace_reader_head(const struct trace_reader *reader);

/* The next step, or NULL in `*out` at the end of the file. Every expert is checked to be below
 * head->experts, every count against the head. After an error only close may follow. */
SL_MUST_USE enum sl_status trace_reader_next(struct trace_reader *reader,
                                             const struct trace_step **out, struct sl_error *error);

/* Back to the first step, also after the end or an error. */
void trace_reader_rewind(struct trace_reader *reader);

#endif
