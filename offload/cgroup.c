/* Walks up the control groups; see the header. */
#include "offload/cgroup.h"

#include <string.h>

#define CGROUP_PATH_BYTES_MAX 4096

/* Reads up to two numbers of a file, behind `key` where the file has lines with names. Returns how
 * many; "max" is none. */
static int read_numbers(const char *folder, const char *name, const char *key, uint64_t numbers[2])
{
    char path[CGROUP_PATH_BYTES_MAX + 64], line[256];
    int found = 0;
    snprintf(path, sizeof path, "%s/%s", folder, name);
    FILE *file = fopen(path, "re");
    if (!file) return 0;
    while (found == 0 && fgets(line, sizeof line, file)) {
        if (strncmp(line, key, strlen(key)) != 0) continue;
        const char *at = line + strlen(key);
        while (found < 2) {
            char *end;
            long long value = strtoll(at, &end, 10);
            if (end == at || value < 0) break; /* -1: no quota */
            numbers[found++] = (uint64_t)value;
            at = end;
        }
    }
    fclose(file);
    return found;
}

/* The names of one version of the interface. */
struct interface {
    const char *limit, *used, *cached_key;
};

static const struct interface interface_v1 = {"memory.limit_in_bytes", "memory.usage_in_bytes",
                                              "total_inactive_file "};
static const struct interface interface_v2 = {"memory.max", "memory.current", "inactive_file "};

static void look_at_memory(const char *folder, const struct interface *names,
                           struct cgroup_limits *out)
{
    uint64_t limit[2], used[2] = {0}, cached[2] = {0};
    if (read_numbers(folder, names->limit, "", limit) == 0) return;
    if (read_numbers(folder, names->used, "", used) == 0) used[0] = 0;
    if (read_numbers(folder, "memory.stat", names->cached_key, cached) == 0) cached[0] = 0;
    uint64_t held = used[0] > cached[0] ? used[0] - cached[0] : 0;
    uint64_t room = limit[0] > held ? limit[0] - held : 0;
    if (room < out->memory_room_bytes) out->memory_room_bytes = room;
}

static void look_at_processors(const char *folder, struct cgroup_limits *out)
{
    uint64_t quota[2], period[2];
    int found = read_numbers(folder, "cpu.max", "", quota);
    if (found == 2) {
        period[0] = quota[1];
    } else if (read_numbers(folder, "cpu.cfs_quota_us", "", quota) == 0 ||
               read_numbers(folder, "cpu.cfs_period_us", "", period) == 0) {
        return;
    }
    if (quota[0] == 0 || period[0] == 0) return;
    double processors = (double)quota[0] / (double)period[0];
    if (out->processors == 0 || processors < out->processors) out->processors = processors;
}

/* All groups from root/group up to the root. In a namespace of its own a process may see groups
 * above what is mounted, which do not exist there: those are passed over. */
static void walk_up(const char *root, const char *group, const struct interface *names,
                    struct cgroup_limits *out)
{
    char folder[CGROUP_PATH_BYTES_MAX];
    size_t root_length = strlen(root);
    int length = snprintf(folder, sizeof folder, "%s%s", root, group);
    if (length < 0 || (size_t)length >= sizeof folder) return;
    for (;;) {
        look_at_memory(folder, names, out);
        look_at_processors(folder, out);
        char *slash = strrchr(folder + root_length, '/');
        if (!slash) return;
        *slash = 0;
    }
}

/* Whether `name` is one of the comma-separated `controllers`. */
static bool has_controller(const char *controllers, const char *name)
{
    size_t length = strlen(name);
    for (const char *at = controllers; (at = strstr(at, name)); at += length)
        if ((at == controllers || at[-1] == ',') && (at[length] == ',' || at[length] == 0))
            return true;
    return false;
}

/* One line of /proc/self/cgroup, "number:controllers:group". */
static void look_at_line(const char *mount, char *line, struct cgroup_limits *out)
{
    char root[CGROUP_PATH_BYTES_MAX];
    char *controllers = strchr(line, ':');
    char *group = controllers ? strchr(controllers + 1, ':') : NULL;
    if (!group) return;
    *group++ = 0;
    controllers++;
    group[strcspn(group, "\n")] = 0;
    if (*group != '/') return;
    if (*controllers == 0) { /* the second version's only hierarchy */
        walk_up(mount, group, &interface_v2, out);
        return;
    }
    if (!has_controller(controllers, "memory") && !has_controller(controllers, "cpu")) return;
    int length = snprintf(root, sizeof root, "%s/%s", mount, controllers);
    if (length > 0 && (size_t)length < sizeof root) walk_up(root, group, &interface_v1, out);
}

void cgroup_limits_read(const char *mount, const char *self, struct cgroup_limits *out)
{
    char line[CGROUP_PATH_BYTES_MAX];
    *out = (struct cgroup_limits){.memory_room_bytes = UINT64_MAX};
    FILE *file = fopen(self, "re");
    if (!file) return;
    while (fgets(line, sizeof line, file))
        look_at_line(mount, line, out);
    fclose(file);
}
