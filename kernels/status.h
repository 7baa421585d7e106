/* Result codes and the message that goes with a failed cold call.
 *
 * Every layer returns `enum sl_status`; calls that open, load or parse also take an optional
 * `struct sl_error *` (NULL is allowed) and leave a sentence fit for the user in it. */
#ifndef SLUICE_KERNELS_STATUS_H
#define SLUICE_KERNELS_STATUS_H

#ifdef __cplusplus
extern "C" {
#endif

#define SL_MUST_USE                      __attribute__((warn_unused_result))
#define SL_API                           __attribute__((visibility("default")))
#define SL_PRINTF(format_idx, first_idx) __attribute__((format(printf, format_idx, first_idx)))

enum sl_status {
    SL_OK = 0,
    SL_ERR_ARGUMENT,    /* the caller's option or value cannot be used */
    SL_ERR_NO_MEMORY,   /* an allocation failed, or a budget is too small */
    SL_ERR_IO,          /* the operating system refused or failed a read or write */
    SL_ERR_FORMAT,      /* bytes from outside are not what they should be */
    SL_ERR_CHECKSUM,    /* bytes read differ from the bytes that were written */
    SL_ERR_UNSUPPORTED, /* well-formed, but nothing this build can run */
    SL_ERR_LIMIT,       /* a named limit is reached (context full, too many files) */
    SL_ERR_BUSY,        /* no slot can be had until something is released */
    SL_ERR_CANCELLED,   /* the caller asked to stop */
    SL_NEED_MORE,       /* not an error: the input ends before the item does */
};

/* Longest message kept, with its terminating zero; longer ones are cut. */
#define SL_ERROR_MESSAGE_BYTES_MAX 1024

struct sl_error {
    enum sl_status status;
    int os_errno; /* errno of the failed call, or 0 */
    char message[SL_ERROR_MESSAGE_BYTES_MAX];
};

/* The name of a status ("io", "format", ...), never NULL; static storage. */
SL_API const char *sl_status_name(enum sl_status status);

/* Fills `error` (ignored when NULL) and returns `status`, so that a failing path reads
 * `return sl_error_set(error, SL_ERR_IO, errno, "cannot open %s: %s", path, strerror(errno))`. */
SL_API enum sl_status sl_error_set(struct sl_error *error, enum sl_status status, int os_errno,
                                   const char *format, ...) SL_PRINTF(4, 5);

#ifdef __cplusplus
}
#endif
#endif
