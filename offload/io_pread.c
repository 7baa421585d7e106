/* The door to the disk where io_uring is not to be had: a few threads that call pread.
 *
 * The door owns its threads and lists; reads are linked through their `next` and never exceed the
 * depth, so nothing is allocated after open. The owner submits and reaps; between it and the
 * threads everything passes under one mutex. Errors of reads come back in their result. */
#include "offload/io_pread.h"

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <unistd.h>

#define DESCRIPTION_BYTES_MAX 256

struct read_list {
    struct io_read *first, *last;
};

struct pread_door {
    struct io base;
    const struct io_file *files;
    int32_t file_count, depth;
    int32_t in_flight; /* the owner's: submitted and not yet reaped */
    int32_t thread_count;
    pthread_t threads[IO_PREAD_THREADS_MAX];
    pthread_mutex_t mutex; /* guards the rest */
    pthread_cond_t work, finished;
    struct read_list queue, done;
    bool closing;
    char description[DESCRIPTION_BYTES_MAX];
};

static void list_push(struct read_list *list, struct io_read *read)
{
    read->next = NULL;
    if (list->last)
        list->last->next = read;
    else
        list->first = read;
    list->last = read;
}

static struct io_read *list_pop(struct read_list *list)
{
    struct io_read *read = list->first;
    if (!read) return NULL;
    list->first = read->next;
    if (!list->first) list->last = NULL;
    read->next = NULL;
    return read;
}

static void *pread_thread(void *argument)
{
    struct pread_door *door = argument;
    pthread_mutex_lock(&door->mutex);
    for (;;) {
        struct io_read *read = list_pop(&door->queue);
        if (!read) {
            if (door->closing) break;
            pthread_cond_wait(&door->work, &door->mutex);
            continue;
        }
        pthread_mutex_unlock(&door->mutex);
        ssize_t result =
            pread(door->files[read->file].fd, read->buffer, read->bytes, (off_t)read->offset_bytes);
        read->result = result < 0 ? -errno : result;
        pthread_mutex_lock(&door->mutex);
        list_push(&door->done, read);
        pthread_cond_signal(&door->finished);
    }
    pthread_mutex_unlock(&door->mutex);
    return NULL;
}

/* As many threads as the depth can use; fewer are fine when the system refuses some. */
static int start_threads(struct pread_door *door)
{
    sigset_t all, before;
    int wanted = min_i32(door->depth, IO_PREAD_THREADS_MAX), refused = 0;
    sigfillset(&all);
    /* Signals are for the program's own threads, never for these. */
    SL_ASSERT(pthread_sigmask(SIG_BLOCK, &all, &before) == 0);
    while (door->thread_count < wanted && !refused) {
        refused = pthread_create(&door->threads[door->thread_count], NULL, pread_thread, door);
        if (!refused) door->thread_count++;
    }
    SL_ASSERT(pthread_sigmask(SIG_SETMASK, &before, NULL) == 0);
    return door->thread_count > 0 ? 0 : refused;
}

static void destroy_door(struct pread_door *door)
{
    pthread_cond_destroy(&door->finished);
    pthread_cond_destroy(&door->work);
    pthread_mutex_destroy(&door->mutex);
    free(door);
}

enum sl_status io_pread_open(const struct io_options *options, const char *reason, struct io **out,
                             struct sl_error *error)
{
    SL_ASSERT(options->depth >= 1 && options->depth <= IO_DEPTH_MAX);
    SL_ASSERT(options->file_count >= 0 && options->file_count <= IO_FILES_MAX);
    struct pread_door *door = calloc(1, sizeof *door);
    if (!door)
        return sl_error_set(error, SL_ERR_NO_MEMORY, ENOMEM, "no memory for the disk reader");
    door->base.ops = &io_pread_ops;
    door->files = options->files;
    door->file_count = options->file_count;
    door->depth = options->depth;
    pthread_mutex_init(&door->mutex, NULL);
    pthread_cond_init(&door->work, NULL);
    pthread_cond_init(&door->finished, NULL);
    int refused = start_threads(door);
    if (refused) {
        destroy_door(door);
        return sl_error_set(error, SL_ERR_NO_MEMORY, refused,
                            "cannot start a thread that reads from disk: %s; raise the limit on "
                            "processes (ulimit -u)",
                            strerror(refused));
    }
    snprintf(door->description, sizeof door->description, "pread, %d thread%s%s%s%s",
             (int)door->thread_count, door->thread_count == 1 ? "" : "s", reason ? " (" : "",
             reason ? reason : "", reason ? ")" : "");
    *out = &door->base;
    return SL_OK;
}

static enum sl_status pread_open(const struct io_options *options, struct io **out,
                                 struct sl_error *error)
{
    return io_pread_open(options, NULL, out, error);
}

static enum sl_status pread_submit(struct io *io, struct io_read *const *reads, int32_t count)
{
    struct pread_door *door = (struct pread_door *)io;
    SL_ASSERT(count >= 0 && door->in_flight + count <= door->depth);
    pthread_mutex_lock(&door->mutex);
    for (int32_t i = 0; i < count; i++) {
        SL_ASSERT(reads[i]->file >= 0 && reads[i]->file < door->file_count);
        list_push(&door->queue, reads[i]);
    }
    pthread_cond_broadcast(&door->work);
    pthread_mutex_unlock(&door->mutex);
    door->in_flight += count;
    return SL_OK;
}

static int32_t pread_reap(struct io *io, struct io_read **out, int32_t max, int32_t wait_for)
{
    struct pread_door *door = (struct pread_door *)io;
    int32_t count = 0;
    SL_ASSERT(wait_for <= max && wait_for <= door->in_flight);
    pthread_mutex_lock(&door->mutex);
    while (count < max) {
        struct io_read *read = list_pop(&door->done);
        if (read)
            out[count++] = read;
        else if (count < wait_for)
            pthread_cond_wait(&door->finished, &door->mutex);
        else
            break;
    }
    pthread_mutex_unlock(&door->mutex);
    door->in_flight -= count;
    SL_ASSERT(door->in_flight >= 0);
    return count;
}

static const char *pread_describe(const struct io *io)
{
    return ((const struct pread_door *)io)->description;
}

static void pread_close(struct io *io)
{
    struct pread_door *door = (struct pread_door *)io;
    pthread_mutex_lock(&door->mutex);
    door->closing = true; /* a thread leaves once the queue is empty */
    pthread_cond_broadcast(&door->work);
    pthread_mutex_unlock(&door->mutex);
    for (int32_t i = 0; i < door->thread_count; i++)
        SL_ASSERT(pthread_join(door->threads[i], NULL) == 0);
    SL_ASSERT(!door->queue.first);
    destroy_door(door);
}

const struct io_ops io_pread_ops = {
    .name = "pread",
    .open = pread_open,
    .submit = pread_submit,
    .reap = pread_reap,
    .describe = pread_describe,
    .close = pread_close,
};
