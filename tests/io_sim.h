/* A simulated disk behind the door of offload/io.h: real bytes of the real files, with latency,
 * reordering and faults drawn from a seed.
 *
 * Time is virtual: one turn per call of reap; a waiting reap skips ahead. The plan is read while
 * the door is open, so a test may change it between calls. One door at a time, one thread. Misuse
 * of the door (unaligned direct reads, memory outside its region, two reads into the same bytes) is
 * asserted. */
#ifndef SLUICE_TESTS_IO_SIM_H
#define SLUICE_TESTS_IO_SIM_H

#include "offload/io.h"

#define IO_SIM_FAULTS_MAX 8

/* What befalls reads that touch a range of a file. */
struct io_sim_fault {
    int32_t file;
    uint64_t offset_bytes, bytes;
    int os_errno;         /* the read fails with it, if not 0 */
    bool flip;            /* else one bit of the first byte in the range is wrong */
    uint32_t stall_turns; /* the read takes that many turns longer */
};

struct io_sim_plan {
    uint64_t seed;
    uint32_t latency_turns_max;
    uint32_t short_permille;     /* reads that deliver only a part, down to one byte */
    uint32_t transient_permille; /* reads that end with -EINTR or -EAGAIN */
    uint32_t refuse_permille;    /* submits that take nothing and return SL_ERR_IO */
    bool reap_fails;             /* the door as a whole is broken: reap returns -EBADF */
    struct io_sim_fault faults[IO_SIM_FAULTS_MAX];
    int32_t fault_count;
    void (*tick)(void *context); /* called for every turn, to move a test's clock; or NULL */
    void *tick_context;
};

/* Copies the plan; before the door is opened, or while it is. */
void io_sim_set_plan(const struct io_sim_plan *plan);

/* Of the door opened last: reads submitted so far, most at once, and those in flight now. */
struct io_sim_counts {
    uint64_t reads;
    int32_t in_flight, in_flight_max;
};
struct io_sim_counts io_sim_counts_get(void);

extern const struct io_ops io_sim_ops;

#endif
