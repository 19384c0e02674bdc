/* A test double of NVIDIA's management library: the C entry points that the real Python binding calls.
 *
 * State comes from the text file that $FAKE_NVML names, read anew in each call, so that a test can change a card while
 * somebody watches it. One "key=value" a line; the last line with a key counts.
 *
 *   init=CODE                   nvmlInit fails with this NVML code
 *   driver=TEXT  cuda=13000     versions
 *   count=N                     number of cards
 *   g<i>.name, .uuid, .mem_total, .mem_used, .util, .temp, .power_mw, .power_limit_mw, .sm_clock, .max_sm_clock,
 *   g<i>.reasons                a sensor without a line is NOT_SUPPORTED
 *   g<i>.procs=pid:bytes,...    processes; the bytes may be N/A
 *   g<i>.err.<Function>=CODE    this function fails for this card (err.<Function>: one that takes no card)
 *   g<i>.hang.<Function>=S      it hangs for S seconds first, or until the line is gone (hang.<Function>: any card)
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned int u32;
typedef unsigned long long u64;
typedef int status;

enum { SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, INSUFFICIENT_SIZE = 7 };
enum { MOST_PROCESSES = 64 };

static int opened;

/* ---- the state file ---- */

static int lookup(const char *key, char *value, size_t size) {
    const char *path = getenv("FAKE_NVML");
    FILE *file = path ? fopen(path, "r") : NULL;
    char line[4096];
    size_t length = strlen(key);
    int found = 0;
    if (!file) return 0;
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, key, length) != 0 || line[length] != '=') continue;
        line[strcspn(line, "\r\n")] = 0;
        snprintf(value, size, "%s", line + length + 1);
        found = 1;
    }
    fclose(file);
    return found;
}

static long lookup_number(const char *key, long fallback) {
    char value[64];
    return lookup(key, value, sizeof value) ? strtol(value, NULL, 0) : fallback;
}

/* A card's handle is its index plus one, so that no handle is NULL. */
static int index_of(void *card) { return (int)(long)card - 1; }

static int lookup_card(void *card, const char *field, char *value, size_t size) {
    char key[160];
    snprintf(key, sizeof key, "g%d.%s", index_of(card), field);
    return lookup(key, value, size);
}

/* ---- what happens before each answer: hang, then fail, if the state says so ---- */

static double hang_seconds(void *card, const char *function) {
    char field[128], value[64];
    snprintf(field, sizeof field, "hang.%s", function);
    if (card && lookup_card(card, field, value, sizeof value)) return atof(value);
    return lookup(field, value, sizeof value) ? atof(value) : 0;
}

static status before(void *card, const char *function) {
    char field[128], value[64];
    for (double waited = 0; waited < hang_seconds(card, function); waited += 0.02) usleep(20000);
    if (!opened) return UNINITIALIZED;
    snprintf(field, sizeof field, "err.%s", function);
    if (card) {
        if (index_of(card) < 0 || index_of(card) >= lookup_number("count", 0)) return INVALID_ARGUMENT;
        return lookup_card(card, field, value, sizeof value) ? atoi(value) : SUCCESS;
    }
    return lookup(field, value, sizeof value) ? atoi(value) : SUCCESS;
}

#define BEFORE(card)                                 \
    do {                                             \
        status code_ = before(card, __func__);       \
        if (code_ != SUCCESS) return code_;          \
    } while (0)

static status number_of(void *card, const char *field, u64 *out) {
    char value[64];
    if (!lookup_card(card, field, value, sizeof value)) return NOT_SUPPORTED;
    *out = strtoull(value, NULL, 0);
    return SUCCESS;
}

static status number32_of(void *card, const char *field, u32 *out) {
    u64 wide = 0;
    status code = number_of(card, field, &wide);
    if (code == SUCCESS) *out = (u32)wide;
    return code;
}

/* ---- the library ---- */

status nvmlInitWithFlags(u32 flags) {
    (void)flags;
    for (double waited = 0; waited < hang_seconds(NULL, __func__); waited += 0.02) usleep(20000);
    long code = lookup_number("init", SUCCESS);
    if (code == SUCCESS) opened++;
    return (status)code;
}

status nvmlShutdown(void) {
    if (!opened) return UNINITIALIZED;
    opened--;
    return SUCCESS;
}

const char *nvmlErrorString(status code) {
    static char text[40];
    snprintf(text, sizeof text, "fake NVML error %d", code);
    return text;
}

status nvmlSystemGetDriverVersion(char *out, u32 size) {
    BEFORE(NULL);
    return lookup("driver", out, size) ? SUCCESS : NOT_SUPPORTED;
}

status nvmlSystemGetCudaDriverVersion(int *out) {
    BEFORE(NULL);
    *out = (int)lookup_number("cuda", 13000);
    return SUCCESS;
}

/* ---- the cards ---- */

status nvmlDeviceGetCount_v2(u32 *out) {
    BEFORE(NULL);
    *out = (u32)lookup_number("count", 0);
    return SUCCESS;
}

status nvmlDeviceGetHandleByIndex_v2(u32 index, void **out) {
    void *card = (void *)(long)(index + 1);
    BEFORE(card);
    *out = card;
    return SUCCESS;
}

status nvmlDeviceGetName(void *card, char *out, u32 size) {
    BEFORE(card);
    return lookup_card(card, "name", out, size) ? SUCCESS : NOT_SUPPORTED;
}

status nvmlDeviceGetUUID(void *card, char *out, u32 size) {
    BEFORE(card);
    return lookup_card(card, "uuid", out, size) ? SUCCESS : NOT_SUPPORTED;
}

typedef struct { u64 total, free, used; } memory_info;

status nvmlDeviceGetMemoryInfo(void *card, memory_info *out) {
    BEFORE(card);
    if (number_of(card, "mem_total", &out->total) || number_of(card, "mem_used", &out->used)) return NOT_SUPPORTED;
    out->free = out->total - out->used;
    return SUCCESS;
}

typedef struct { u32 gpu, memory; } utilization;

status nvmlDeviceGetUtilizationRates(void *card, utilization *out) {
    BEFORE(card);
    out->memory = 0;
    return number32_of(card, "util", &out->gpu);
}

status nvmlDeviceGetTemperature(void *card, u32 sensor, u32 *out) {
    (void)sensor;
    BEFORE(card);
    return number32_of(card, "temp", out);
}

status nvmlDeviceGetPowerUsage(void *card, u32 *out) {
    BEFORE(card);
    return number32_of(card, "power_mw", out);
}

status nvmlDeviceGetEnforcedPowerLimit(void *card, u32 *out) {
    BEFORE(card);
    return number32_of(card, "power_limit_mw", out);
}

status nvmlDeviceGetClockInfo(void *card, u32 type, u32 *out) {
    (void)type;
    BEFORE(card);
    return number32_of(card, "sm_clock", out);
}

status nvmlDeviceGetMaxClockInfo(void *card, u32 type, u32 *out) {
    (void)type;
    BEFORE(card);
    return number32_of(card, "max_sm_clock", out);
}

status nvmlDeviceGetCurrentClocksEventReasons(void *card, u64 *out) {
    BEFORE(card);
    return number_of(card, "reasons", out);
}

status nvmlDeviceGetCurrentClocksThrottleReasons(void *card, u64 *out) { /* the older name */
    BEFORE(card);
    return number_of(card, "reasons", out);
}

typedef struct { u32 pid; u64 memory; u32 gpu_instance, compute_instance; } process_info;

status nvmlDeviceGetComputeRunningProcesses_v3(void *card, u32 *count, process_info *out) {
    char list[2048], *rest = NULL;
    process_info found[MOST_PROCESSES];
    u32 room = *count, n = 0;
    BEFORE(card);
    *count = 0;
    if (!lookup_card(card, "procs", list, sizeof list)) return SUCCESS;
    for (char *item = strtok_r(list, ",", &rest); item && n < MOST_PROCESSES; item = strtok_r(NULL, ",", &rest), n++) {
        char *bytes = strchr(item, ':');
        found[n].pid = (u32)strtoul(item, NULL, 10);
        found[n].memory = bytes && bytes[1] != 'N' ? strtoull(bytes + 1, NULL, 0) : ~0ULL; /* NVML's "not available" */
        found[n].gpu_instance = found[n].compute_instance = ~0U;
    }
    *count = n;
    if (n == 0) return SUCCESS;
    if (!out || room < n) return INSUFFICIENT_SIZE;
    memcpy(out, found, n * sizeof *found);
    return SUCCESS;
}
