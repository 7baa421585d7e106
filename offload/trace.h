/* A trace: which experts every layer chose for every token, what was guessed beforehand, and how
 * long it took. Written by a run, or by a generator of synthetic routing; replayed by the simulator
 * and counted by `sluice trace`.
 *
 * The file, little-endian throughout, version 1:
 *
 *     head, TRACE_HEAD_BYTES     magic "SLUICETR", version, shape, lists; XXH3-64 of the rest last
 *     blocks                     32 bytes: u32 magic "SLTB", u32 payload bytes, u32 steps,
 *                                u32 zero, u64 number of its first step, u64 XXH3-64 of the
 *                                payload, seeded with the XXH3-64 of the 24 bytes before; then the
 *                                payload, whole steps
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
 * This header has the records; trace_writer.h and trace_reader.h write and read them. */
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
#define TRACE_LISTS_MAX        7
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

/* Offsets of a step's parts in its bytes; every size is checked to fit TRACE_STEP_BYTES_MAX. */
struct trace_layout {
    size_t ids, chosen, guesses, timings, bytes;
    size_t expert_bytes; /* 1 or 2, of one chosen expert */
};

#define TRACE_STEP_HEAD_BYTES 32
#define TRACE_FLAG_GUESSES    1u
#define TRACE_FLAG_TIMINGS    2u
#define TRACE_MARGIN_SCALE    4096.0f
#define TRACE_NO_EXPERT       65535

/* The header of a block, or of the end. */
struct trace_block {
    bool end;
    uint32_t payload_bytes, steps;
    uint64_t first_step;
};

/* SL_ERR_ARGUMENT naming the field that is out of bounds. */
SL_MUST_USE enum sl_status trace_head_check(const struct trace_head *head, struct sl_error *error);
void trace_head_encode(const struct trace_head *head, uint8_t bytes[TRACE_HEAD_BYTES]);
/* SL_ERR_FORMAT, SL_ERR_CHECKSUM, SL_ERR_UNSUPPORTED; `name` for messages. */
SL_MUST_USE enum sl_status trace_head_parse(const uint8_t bytes[TRACE_HEAD_BYTES], const char *name,
                                            struct trace_head *out, struct sl_error *error);

/* The layout of a step of a trace with this (checked) head; false when it is too large. */
bool trace_layout_make(const struct trace_head *head, int32_t layers, int32_t tokens,
                       uint32_t flags, struct trace_layout *out);

/* The header in front of `payload`, which is block->payload_bytes long. */
void trace_block_encode(const struct trace_block *block, const void *payload,
                        uint8_t bytes[TRACE_BLOCK_HEAD_BYTES]);
/* False when these are no block header's bytes; `*checksum` is to equal trace_block_checksum. */
bool trace_block_parse(const uint8_t bytes[TRACE_BLOCK_HEAD_BYTES], struct trace_block *out,
                       uint64_t *checksum);
uint64_t trace_block_checksum(const uint8_t bytes[TRACE_BLOCK_HEAD_BYTES], const void *payload,
                              size_t payload_bytes);

#endif
