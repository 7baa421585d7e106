/* Choosing kernels and threads; see the header. */
#include "runtime/compute.h"

#include "offload/device_sim.h"

_Static_assert(TOPOLOGY_CORES_MAX <= COMPUTE_THREADS_MAX, "a thread on each core must be allowed");

/* The instruction set named, or the best one. */
static enum sl_status choose_isa(const char *name, enum cpu_isa *out, struct sl_error *error)
{
    *out = cpu_isa_best();
    if (!name) return SL_OK;
    if (!cpu_isa_parse(name, out))
        return sl_error_set(error, SL_ERR_ARGUMENT, 0,
                            "no instruction set \"%s\": it must be portable, avx2, avx512 or amx",
                            name);
    if (!cpu_isa_supported(*out))
        return sl_error_set(error, SL_ERR_UNSUPPORTED, 0,
                            "this processor cannot run the %s kernels, it lacks %s: leave the "
                            "choice open, or use %s",
                            name, cpu_isa_missing(*out), cpu_isa_name(cpu_isa_best()));
    return SL_OK;
}

enum sl_status compute_choose(const char *isa, int32_t threads, struct compute *out,
                              struct sl_error *error)
{
    SL_TRY(choose_isa(isa, &out->isa, error));
    topology_detect(&out->topology);
    out->threads = threads ? threads : out->topology.threads;
    if (out->threads >= 1 && out->threads <= COMPUTE_THREADS_MAX) return SL_OK;
    return sl_error_set(error, SL_ERR_ARGUMENT, 0, "%d threads: it must be 1 to %d", out->threads,
                        COMPUTE_THREADS_MAX);
}

/* A core for each, if there are as many. */
enum sl_status compute_open_stream(const struct compute *compute, const struct ops *ops,
                                   struct stream **out, struct sl_error *error)
{
    const struct topology *topology = &compute->topology;
    int32_t cpus[TOPOLOGY_CORES_MAX], nodes[TOPOLOGY_CORES_MAX];
    struct stream_options stream = {.threads = compute->threads};
    if (stream.threads <= topology->core_count) {
        topology_place(topology, stream.threads, cpus, nodes);
        stream.cpus = cpus;
        stream.nodes = nodes;
    }
    enum sl_status status = ops->stream_create(&stream, out);
    if (status == SL_ERR_UNSUPPORTED)
        return sl_error_set(error, status, 0,
                            "fast prefill with the %s kernels needs OpenBLAS, in the build and as "
                            "libopenblas.so.0 here: install it, or use exact prefill",
                            cpu_isa_name(compute->isa));
    if (status != SL_OK)
        return sl_error_set(error, SL_ERR_NO_MEMORY, 0, "cannot start %d threads", stream.threads);
    return SL_OK;
}

enum io_kind compute_io(enum sl_io choice)
{
    return choice == SL_IO_URING ? IO_URING : choice == SL_IO_PREAD ? IO_PREAD : IO_AUTO;
}

/* The simulated link where nothing else is asked for: PCIe 4 with sixteen lanes. */
#define SIM_LINK_BYTES_PER_SECOND 25000000000u
#define SIM_LATENCY_NS            10000u

uint64_t compute_simulated_link(uint64_t asked, char name[COMPUTE_DEVICE_NAME_BYTES])
{
    uint64_t rate = asked ? asked : SIM_LINK_BYTES_PER_SECOND;
    snprintf(name, COMPUTE_DEVICE_NAME_BYTES, "simulated, %llu bytes/s", (unsigned long long)rate);
    return rate;
}

enum sl_status compute_simulate_device(uint64_t memory_bytes, uint64_t link, struct device **out,
                                       struct sl_error *error)
{
    char name[COMPUTE_DEVICE_NAME_BYTES];
    uint64_t rate = compute_simulated_link(link, name);
    struct device_sim_options device = {.memory_bytes = memory_bytes,
                                        .bytes_per_second = {rate, rate},
                                        .latency_ns = SIM_LATENCY_NS,
                                        .threads = true};
    return device_sim_create(&device, out, error);
}
